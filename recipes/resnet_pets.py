"""ResNet-50 on the 37 breeds of Oxford-IIIT Pet: gradual unfreezing in three stages, augmentation, smoothed labels.

Measured: not yet by the code as it is; `make claims` does it with the command below.

    python recipes/resnet_pets.py model.checkpoint=../shared/models/resnet18 data.source=../shared/data/clothing \
        data.image_size=160 stages.head.epochs=1 stages.top.epochs=1 stages.all.epochs=2
    python recipes/resnet_pets.py model.checkpoint=../shared/models/mobilenetv2_100 data.source=../shared/data/clothing \
        data.image_size=160 stages.head.epochs=1 stages.top.epochs=1 stages.all.epochs=2

With the Hub's defaults:

    python recipes/resnet_pets.py
"""

import hftl


def recipe() -> hftl.Recipe:
    return hftl.Recipe(
        name="resnet-pets",
        data=hftl.ImageData(source="timm/oxford-iiit-pet", augmentation="standard", validation_fraction=0.15),
        model=hftl.Timm(checkpoint="timm/resnet50.a1_in1k"),
        stages={
            # 3,128 pets / 32 a step = 98 steps an epoch.
            "head": hftl.Stage(unfreeze="head", lr=3e-3, epochs=2, loss=hftl.CrossEntropyLoss(label_smoothing=0.1)),
            "top": hftl.Stage(
                unfreeze="last 3",
                lr=5e-4,
                layer_decay=0.7,
                head_lr_multiplier=2,
                epochs=3,
                schedule=hftl.LinearSchedule(warmup=0.1),
                loss=hftl.CrossEntropyLoss(label_smoothing=0.1),
            ),
            "all": hftl.Stage(
                unfreeze="all",
                lr=5e-4,
                layer_decay=0.7,
                head_lr_multiplier=2,
                epochs=5,
                schedule=hftl.CosineSchedule(warmup=0.1),
                loss=hftl.CrossEntropyLoss(label_smoothing=0.1),
            ),
        },
        run=hftl.RunSettings(batch_size=32, seed=0, metric="macro_f1"),
        card=hftl.Card(
            title="ResNet-50: breeds of cats and dogs",
            summary="Names the breed of a cat or a dog, out of 37.",
            intended_use="Photos with one animal in the middle.",
            dataset="timm/oxford-iiit-pet",
            dataset_name="Oxford-IIIT Pet",
        ),
    )


if __name__ == "__main__":
    hftl.main(recipe)
