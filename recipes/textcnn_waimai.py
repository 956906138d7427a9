"""A TextCNN on Chinese delivery reviews, which have no spaces between words; its word vectors are random at first.

Measured: Waimai, 9,987 reviews; TextCNN: test accuracy 0.886 (0.879 to 0.891), n = 2,000 (which alone leave ± 0.014);
validation by stage: all 0.88 (0.87 to 0.89); 0.4 minutes of training a run, seeds 0, 1, 2, 1 thread. Mean (lowest to highest)
of these runs, on AMD EPYC, 2 cores, bf16, commit a146e8f, 2026-11-30.

    python recipes/textcnn_waimai.py

The reviews are cut into words that are learned from the training texts, and the tokenizer that is saved with the model does it.
With a letter as a word:

    python recipes/textcnn_waimai.py model.segmentation=characters
"""

import hftl


def recipe() -> hftl.Recipe:
    return hftl.Recipe(
        name="textcnn-waimai",
        # Short reviews that several people wrote, some with another label: they are left out of train.
        data=hftl.TextData(source="../shared/data/waimai", max_length=200, validation_fraction=0.1, on_duplicate="drop"),
        model=hftl.TextCNN(vectors="random:100", kernel_widths=(1, 2, 3), channels=100, word_dropout=0.2),
        stages={"all": hftl.Stage(unfreeze="all", lr=2e-3, epochs=5, schedule=hftl.LinearSchedule(warmup=0.05))},
        run=hftl.RunSettings(batch_size=32, seed=0),
        card=hftl.Card(
            title="TextCNN on Chinese delivery reviews",
            summary="Tells positive from negative Chinese reviews of delivered food, with a convolutional network over words.",
            intended_use="Sentiment of short Chinese reviews, where a small and fast model is wanted.",
            limitations="Other domains were not measured.",
            training_data="9,987 reviews of a public collection (ChineseNlpCorpus, waimai_10k).",
            language="zh",
            dataset_name="waimai",
        ),
    )


if __name__ == "__main__":
    hftl.main(recipe)
