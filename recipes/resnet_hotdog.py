"""ResNet-18 tells hot dogs from other things, in two stages: head, then all with a smaller rate the deeper the layer.

Measured: not yet by the code as it is; `make claims` does it with the command below.

    python recipes/resnet_hotdog.py data.source=../shared/data/hotdog model.checkpoint=../shared/models/resnet18

69 of the 400 test photos of that collection are in its train as well, and are left out there. With the Hub's defaults:

    python recipes/resnet_hotdog.py
    hftl show recipes/resnet_hotdog.py
"""

import hftl


def recipe() -> hftl.Recipe:
    return hftl.Recipe(
        name="resnet-hotdog",
        # In the collection that was measured 69 photos are in train and in test: they are left out of train.
        data=hftl.ImageData(
            source="truepositive/hotdog_nothotdog", augmentation="standard", validation_fraction=0.1, on_duplicate="drop"
        ),
        model=hftl.Timm(checkpoint="timm/resnet18.tv_in1k"),
        stages={
            "head": hftl.Stage(unfreeze="head", lr=3e-3, epochs=1),
            "all": hftl.Stage(
                unfreeze="all", lr=5e-4, layer_decay=0.7, head_lr_multiplier=3, epochs=6, schedule=hftl.CosineSchedule(warmup=0.1)
            ),
        },
        run=hftl.RunSettings(batch_size=32, seed=0),
        card=hftl.Card(
            title="ResNet-18: hot dog or not",
            summary="Tells photos of hot dogs from photos of other things.",
            intended_use="Demonstration of transfer learning on a small set of photos.",
            limitations="Drawings, crowded tables and food that looks like a hot dog were not measured apart.",
            dataset_name="hotdog",
        ),
    )


if __name__ == "__main__":
    hftl.main(recipe)
