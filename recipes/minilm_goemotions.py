"""MiniLM on GoEmotions: 28 labels, any number of them an example (Demszky et al. 2020, arXiv:2005.00547).

Measured: GoEmotions, 28 labels; MiniLM (6 layers): test macro F1 0.484, n = 5,424; validation by stage: all 0.52; 90.0 minutes
of training a run, seed 0 alone, 1 thread. Mean (lowest to highest) of these runs, on AMD EPYC, 2 cores, bf16, commit 7892b1f,
2026-11-30.

    bash ../shared/models/get_minilm.sh ../minilm
    python recipes/minilm_goemotions.py data.source=../shared/data/goemotions data.config=null model.checkpoint=../minilm

The rarest label has 77 of 43,410 comments, so the weights are chosen by macro F1. With the Hub's:

    python recipes/minilm_goemotions.py
    hftl audit recipes/minilm_goemotions.py
"""

import hftl


def recipe() -> hftl.Recipe:
    return hftl.Recipe(
        name="minilm-goemotions",
        # Lists of labels: several labels an example. Some comments are in two splits, or have two sets of labels.
        data=hftl.TextData(
            source="google-research-datasets/go_emotions",
            config="simplified",
            label_column="labels",
            max_length=48,
            on_duplicate="drop",
        ),
        model=hftl.Transformer(checkpoint="sentence-transformers/all-MiniLM-L6-v2"),
        stages={
            "all": hftl.Stage(lr=1e-4, layer_decay=0.9, head_lr_multiplier=5, epochs=3, schedule=hftl.LinearSchedule(warmup=0.1)),
        },
        run=hftl.RunSettings(metric="macro_f1", batch_size=32, seed=0),
        card=hftl.Card(
            title="MiniLM, fine-tuned on GoEmotions",
            summary="Says which of 28 emotions an English comment expresses.",
            intended_use="English comments of a sentence or two, as on Reddit.",
            limitations="The labels are those of few raters, who often disagreed; rare emotions are found badly.",
            license="apache-2.0",
            language="en",
            dataset="google-research-datasets/go_emotions",
            dataset_name="GoEmotions",
        ),
    )


if __name__ == "__main__":
    hftl.main(recipe)
