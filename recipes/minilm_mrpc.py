"""MiniLM on pairs of sentences: do the two say the same? (MRPC)

Measured: MRPC, pairs of sentences; MiniLM (6 layers): test accuracy 0.801, n = 1,713 (which alone leave ± 0.019); validation by
stage: all 0.84; 22.8 minutes of training a run, seed 0 alone, 1 thread. Mean (lowest to highest) of these runs, on AMD EPYC, 2
cores, bf16, commit 7892b1f, 2026-11-30.

    bash ../shared/models/get_minilm.sh ../minilm
    python recipes/minilm_mrpc.py data.source=../shared/data/mrpc data.config=null model.checkpoint=../minilm

A pair is two segments: the tokenizer puts [SEP] between them and gives them the token types 0 and 1. With the Hub's defaults, and
as one text of two lines:

    python recipes/minilm_mrpc.py
    python recipes/minilm_mrpc.py data.pair=false
"""

import hftl


def recipe() -> hftl.Recipe:
    return hftl.Recipe(
        name="minilm-mrpc",
        data=hftl.TextData(
            source="nyu-mll/glue",
            config="mrpc",
            text_column=("sentence1", "sentence2"),
            pair=True,
            max_length=128,
            validation_fraction=0.1,
            on_duplicate="drop",
        ),
        model=hftl.Transformer(checkpoint="sentence-transformers/all-MiniLM-L6-v2"),
        stages={
            # A sentence encoder has not compared two sentences yet: all of it has to learn, and the head, which is new, fastest.
            "all": hftl.Stage(
                unfreeze="all",
                lr=1e-4,
                layer_decay=0.9,
                head_lr_multiplier=10,
                epochs=4,
                schedule=hftl.LinearSchedule(warmup=0.1),
            ),
        },
        run=hftl.RunSettings(batch_size=32, seed=0),
        card=hftl.Card(
            title="MiniLM, fine-tuned on MRPC",
            summary="Tells whether two English sentences of the news say the same.",
            intended_use="Pairs of English sentences, as of two reports of one event.",
            limitations="Other domains and languages were not measured. Two thirds of the pairs are paraphrases.",
            training_data="The Microsoft Research Paraphrase Corpus (Dolan & Brockett 2005): pairs of sentences of news reports.",
            license="apache-2.0",
            language="en",
            dataset="nyu-mll/glue",
            dataset_name="MRPC",
        ),
    )


if __name__ == "__main__":
    hftl.main(recipe)
