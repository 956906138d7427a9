"""Every class of transformers' text classifiers, and one small network of each module of timm, through hftl's whole road.

    python tests/model_sweep.py ROWS.jsonl           one line a model; those that are in the file already are left out
    python tests/model_sweep.py ROWS.jsonl --write   the same, and docs/models.md from them

Each model is made small, with random weights, and written into a folder as a user would have it: config, weights, tokenizer. Then
plan, a step with a frozen prefix, a step of everything, save, load, serve; or a refusal. Anything else is a defect of hftl.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from digits import write_digits
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    logging,
    pipeline,
)

from hftl.data.source import load_splits
from hftl.errors import RecipeError
from hftl.models import build_classifier, load_classifier, save_classifier
from hftl.models.answers import ANOTHER
from hftl.models.boundary import NotSeparable
from hftl.recipe import ImageData, Recipe, RunSettings, Stage, TextData, Timm, Transformer
from hftl.training.experiment import Experiment, make_samples
from hftl.training.planning import make_plan
from hftl.training.proof import group_hashes, prove
from hftl.training.stage import freeze, make_optimizer, train_mode

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "models.md"
DEFECTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)
TOLERANCE = 1e-3
"""Between logits of training and of serving, as a share of the largest one."""


HEAD = """# Models that hftl takes

Written by `python tests/model_sweep.py ROWS.jsonl --write` (CONTRIBUTING.md), with transformers {transformers} and timm {timm}.
Of {transformers_all} classes of text classifiers {transformers_taken} are taken and {transformers_refused} refused; of {timm_all}
modules of timm {timm_taken} and {timm_refused}.

Each model was made small, of random weights, and written into a folder as a user has it. *Taken* means that it went the whole road:
the plan; a step with all but the last two layer groups frozen, which stayed as they were, and a step of everything; saved, loaded
again with equal logits, and served by `transformers.pipeline` one example at a time, with the logits that a batch had. *Refused*
means one sentence with the way out, from `hftl plan` and from `hftl train` before anything is written; where the way out is
another model alone, the tables leave it out. A test holds a sample of both tables against the code.

- *Chain*: the layer groups, input first. Layers are as many as the checkpoint has; here there were two, or a few.
- *Frozen layers kept*: whether a stage that trains the head, or the head and the last layer, computes what is below once and reads
  it in every later epoch; or why it computes it in every epoch.

What decides:

- **The layers are one list, and run in its order.** An encoder-decoder has two. A model for pictures and texts has one that no
  text reaches: the model of its text part, saved by itself, may be taken.
- **The head is what runs last**, wherever a class keeps it: its last layer with weights is linear, with one output a class.
- **An answer depends on the text alone.** A short text is answered alone and beside a longer one; where the logits are more than a
  ten-thousandth apart, what is measured in batches would not be what is served. If padding on the other side helps, the tokenizer
  is set to that side, and the plan says so.
- **Tokens have a table with a row each**, which the tokenizer is held against.
- No code of a checkpoint is run, and nothing is installed: a model that needs either is refused.

## What the head reads: `model.pooling`

BERT and its kin answer with what became of the first token. `model.pooling` lets the head read all tokens of a text, padding left
out, by a new linear layer: `mean`, `max`, or `attention`, a mean whose weights are learned and start equal. `native`, the default,
is the class of transformers as it is.

ModernBERT and EuroBERT have the mean by their own config. Over every other encoder hftl puts a head of its own; a pretrained layer
over the first token, BERT's pooler, is left out. Such a model needs `hftl/models/pooling_modeling.py`, a copy of which lies beside
its weights, and its card says so (`trust_remote_code=True`, or `import hftl.models.transformer`). Layer groups, frozen layers that
are kept, export and serving are those of any model. Of an encoder-decoder (T5, BART) the encoder alone is taken, which is the only
way to it: with its decoder it is no chain. The biases of T5's first layer serve all of them, so that only its head can start from
what is kept.

Measured: a new head over frozen features, trained for about 300 steps, at most 8 epochs; accuracy on IMDb's test
split in %, mean and standard deviation over three seeds with training rows of their own; texts of up to 128 tokens. bert-nano (of
../shared/models: 4 layers, 128 wide) on 1,000 test reviews, MiniLM (all-MiniLM-L6-v2) on 500. bert-nano has no pretrained layer
over the first token: "native" learns one.

| checkpoint | training rows | native | first token, linear | mean | max |
|---|---|---|---|---|---|
| bert-nano | 200 | 61.8 (2.8) | 60.4 (1.3) | 72.4 (2.4) | 62.8 (2.0) |
| bert-nano | 1,000 | 69.0 (1.7) | 67.1 (1.1) | 75.4 (0.1) | 67.9 (3.8) |
| MiniLM | 200 | 61.6 (1.2) | 57.5 (2.2) | 67.5 (1.7) | 54.3 (4.0) |
| MiniLM | 1,000 | 65.9 (0.1) | 65.6 (0.7) | 75.5 (0.1) | 62.3 (1.4) |

With a frozen encoder the mean is worth 6 to 11 points here, and max at most one. Where every layer is trained it was measured on 96
questions of TREC with MiniLM: 3.3 points (1.5 to 5.2; [findings.md](findings.md#tools)). The default stays `native`, which needs no
modelling file. MiniLM's 1,000 rows are the same for all seeds, in another order.

## Pictures: transformers

With `data.kind=image`, `model.family=transformer` takes what `AutoModelForImageClassification` loads: a test has small ViT, DINOv2,
ConvNeXt V2, SigLIP and CLIP go the whole road, from a checkpoint of the body alone. The chain is embeddings, layer.0 and so on (of
ConvNeXt stages.0), head. Pictures are prepared by the checkpoint's own processor, which has to bring every picture to one size and
its bytes to 0 to 1; `data.image_size` sets the size where the network takes another, which a ViT does not. Of a CLIP or a SigLIP
the part for pictures is taken. Weights of timm stay with `model.family=timm`.

## A small network of its own: `model.family=cnn`

A network of the textbook, from random weights, that tells what a pretrained one is worth on the same pictures: blocks of
convolutions, batch normalisation, ReLU and a pooling that halves the picture; the mean over all places; a linear layer.

```yaml
model: {{family: cnn, channels: [32, 64, 128, 256], convolutions: 1, kernel_size: 3, dropout: 0.0}}
data: {{image_size: 64}}
```

One convolution a block is LeNet's way, two or three are VGG's. The chain is blocks.0 and so on, head; what leaves frozen blocks is
kept as of any model. `data.image_size` is 64 pixels where it is not set, and at least 2 to the power of the number of blocks. It
pays where pictures are small and many, are nothing like photographs, or where a network of 400,000 parameters has to do. Its
modelling file, `hftl/models/cnn_modeling.py`, travels with every saved model (`trust_remote_code=True`, or
`import hftl.models.cnn`). LeCun et al. 1998, doi:10.1109/5.726791; Simonyan & Zisserman 2015, arXiv:1409.1556; Lin et al. 2014,
arXiv:1312.4400.

**What does pretraining buy?** `model.pretrained=false` trains a checkpoint's own architecture from random weights, of transformers
and of timm; one command compares the two, over seeds, on the same rows ([studies.md](studies.md)):

    hftl ablate recipes/resnet_hotdog.py --over staged,scratch
    hftl ablate recipes/resnet_hotdog.py --over staged,scratch --arm small=model.family=cnn

## Several levels of a network: `model.pooling=pyramid` of timm

A network of timm answers with its last level, where a picture of 224 pixels has 7 x 7 places. `model.pooling=pyramid` lets a new
linear layer read its last four levels, at a quarter to a thirty-second of the side: the mean of each over all places, side by side
(Lin et al. 2017, arXiv:1612.03144; Hariharan et al. 2015, arXiv:1411.5752).

```yaml
model: {{family: timm, checkpoint: timm/resnet18.a1_in1k, pooling: pyramid}}
```

It pays where texture or small parts tell the classes apart, and where few layers are trained: the head then has what the lower ones
know. Layer groups and rates are those of the network. Where the head alone trains, the means are computed once and kept; where a
level trains above a frozen one, the head needs both, and frozen layers are computed in every epoch, which the plan says. A network
whose levels are all as fine, such as a ViT, is refused. The model is no longer one of timm's own: it is saved in transformers'
format with its modelling file, `hftl/models/pyramid_modeling.py` (`trust_remote_code=True`, or `import hftl.models.pyramid`), and
needs timm. Its pictures are prepared by an image processor of transformers with timm's sizes, mean and deviation.

## Less memory: `run.gradient_checkpointing`

    hftl train recipe.py run.gradient_checkpointing=true

Each layer that trains keeps what enters it alone, and computes the rest again when the backward pass comes to it: less memory, for
about one more forward pass (Chen et al. 2016, arXiv:1604.06174). It pays where a model does not fit, or where a larger micro-batch
fits in its place; `run.gradient_accumulation` saves memory too, and computes nothing twice, so it comes first. The plan says what a
stage keeps of an example with it and without. Losses, gradients and weights are the same, on a CPU to the bit: what is random is
drawn again from the same state, and batch normalisations count a batch once. Classes of transformers do it themselves, where they
can; of timm's networks and of `cnn` each block does. Networks over word vectors, `run.compile` and FSDP refuse it.

## Grey pictures: timm

Every model reads grey pictures in RGB, of three equal channels. `model.in_chans=1` gives a network of timm one channel: timm
sums the weights of its first layer over the three, mean and deviation are the means of the checkpoint's, and coloured pictures
are turned grey. It spares the first layer two thirds of its work, and little else. `transformers.pipeline` gives every model
three channels, so the card has lines that do without it; a push compares these with training. A first layer that is no
convolution is refused. Other numbers of channels are below.

## Pictures of several bands: timm

Satellites, microscopes and depth cameras give arrays of numbers rather than colours. `data.bands=13` reads them, for networks
of timm:

    hftl train recipe.py data.source=EuroSAT_MS data.bands=13 model.checkpoint=timm/resnet18.a1_in1k

- **Files**: `.npy` of (height, width, 13) or (13, height, width), of whole or broken numbers; TIFF of any number of bands by
  the extra (`pip install 'hftl[bands]'`: tifffile, BSD-3; packed by LZW or JPEG also `pip install imagecodecs`); PNG of four
  channels with `data.bands=4`, as four numbers and not as transparency. In Python arrays too: `run.predict([array])`. A file
  with another number of bands is named with its shape, and `data.on_bad_image=skip` leaves it out. NaN is refused: fill it,
  as by `numpy.nan_to_num`.
- **The first layer** has the weights of the pretrained three channels again and again, times 3 / 13, as timm's
  `adapt_input_conv` makes them. A checkpoint that was trained so is read with its own.
- **Mean and deviation** of each band are those of up to 1,000 training pictures, in the files' own numbers, which no
  checkpoint knows; the plan says so, `config.json` has them. Nothing is scaled to bytes. A band that is one number everywhere
  is refused.
- **Resizing** is the checkpoint's own, a band at a time. `data.augmentation=light` crops and flips; policies that change
  colours, random erasing and views (`run.tta`) are refused, mixing (`mix`) is not. What leaves frozen layers is kept as of
  all pictures; decoded arrays are not, since a file is one already.
- **Near duplicates** are looked for in a picture of three colours, each the mean of a third of the bands. `hftl show` prints
  numbers. The card has lines for timm, and `hftl export` those for ONNX; both are compared with training.
  `transformers.pipeline` opens pictures of colours, and cannot serve such a model.
- **Not there**: a baseline beside the run (what it counts are colours), other families than timm, `model.pooling=pyramid`,
  two files a picture. One band is a grey picture (`model.in_chans=1`), three are RGB.
"""


@dataclass(frozen=True)
class Row:
    """What became of one model."""

    library: str
    name: str
    """The `model_type`, or timm's module."""
    model: str
    """The class, or the architecture that was tried."""
    taken: bool
    groups: str = ""
    """Of the chain, input first."""
    kept: str = ""
    """Whether what frozen layers compute is kept, or why not."""
    why: str = ""
    """The refusal."""


# --- small models of transformers -----------------------------------------------------------------------------------------------

WORDS = list("abcdefghijklmnopqrstuvw")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# What the sizes in a config are called, and what they are in a small model: 32 features, 4 heads of 8, two layers.
SIZES: dict[str, int] = {
    name: size
    for size, names in {
        0: "pad_token_id",
        1: "n_group topk_group n_shared_experts first_k_dense_replace",
        2: "bos_token_id cls_token_id num_hidden_layers n_layer n_layers num_layers num_decoder_layers depth encoder_layers"
        " decoder_layers num_self_attends_per_block num_key_value_heads num_kv_heads linear_num_key_heads"
        " num_experts_per_tok moe_topk",
        3: "eos_token_id sep_token_id",
        4: "mask_token_id num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads"
        " num_self_attention_heads num_cross_attention_heads linear_num_value_heads n_routed_experts num_local_experts num_experts",
        8: "head_dim d_head d_kv v_head_dim qk_rope_head_dim qk_nope_head_dim kv_channels linear_key_head_dim linear_value_head_dim"
        " attention_head_size kv_lora_rank query_pre_attn_scalar",
        16: "qk_head_dim q_lora_rank moe_intermediate_size num_latents sliding_window local_attention window_size attention_window",
        32: "vocab_size pronunciation_vocab_size shape_vocab_size entity_vocab_size num_hash_buckets hidden_size d_model n_embd"
        " emb_dim dim d_latents pooler_hidden_size embedding_size word_embed_proj_dim input_embedding_size output_embedding_size"
        " entity_emb_size pronunciation_embed_dim shape_embed_dim true_hidden_size intra_bottleneck_size",
        48: "intermediate_size hidden_dim encoder_ffn_dim decoder_ffn_dim d_ff d_inner dff ffn_dim ffn_hidden_size"
        " feed_forward_size shared_expert_intermediate_size",
        64: "max_position_embeddings n_positions max_seq_len original_max_position_embeddings",
    }.items()
    for name in names.split()
}
LATENT: dict[str, Any] = {"num_key_value_heads": 4}  # latent attention has no groups of heads
HYBRID: dict[str, Any] = {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
# What a class needs besides, because its sizes hang together.
OWN: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT | {"index_head_dim": 8, "index_n_heads": 2},  # with its own index_topk, 2,048, which is more than texts have
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "esmc": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 2},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6},
    "lilt": {"hidden_size": 48},
    "minicpm3": LATENT,
    "mistral4": LATENT | {"head_dim": 16},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [8, 24],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": HYBRID,
    "zamba2": HYBRID | {"mamba_headdim": 16, "n_mamba_heads": 4},
}


def text_classes() -> dict[str, type[PreTrainedConfig]]:
    """model_type -> config class of every text classifier of transformers; hftl's own are left out."""
    found = {config.model_type: config for config in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING}
    return {name: found[name] for name in sorted(found) if not name.startswith("hftl_")}


def class_name(config_class: type[PreTrainedConfig]) -> str:
    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[config_class]
    return str(getattr(found, "__name__", found))


def small_config(name: str) -> PreTrainedConfig:
    config_class = text_classes()[name]
    return config_class(**{**_small(config_class()), **OWN.get(name, {})})


def _small(config: PreTrainedConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        key: SIZES[key] for key, value in config.to_dict().items() if key in SIZES and not isinstance(value, list)
    }
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if isinstance(part, PreTrainedConfig):
            values[key] = _small(part)
    return values


def small_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]", "bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{key}_token": token for key, token in names.items()})  # type: ignore[no-untyped-call]


def write_text_model(name: str, folder: Path) -> None:
    """A small model of a class with its tokenizer; its config alone where transformers needs more packages to make it."""
    config = small_config(name)
    torch.manual_seed(0)
    try:
        model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except ImportError:
        config.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)


# --- small networks of timm ------------------------------------------------------------------------------------------------------

# Of each module the smallest architecture, or one with arguments that make it small.
TINY = {"embed_dim": 48, "depth": 2, "num_heads": 4}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", TINY),
    "deepseek_vit": ("deepseek_vit_412m", TINY),
    "gemma4_vit": ("gemma4_vit_167m", TINY | {"head_dim": 12, "intermediate_size": 64}),
    "qwen3_vit": ("qwen3_vit_88m", TINY),
    "naflexvit": ("naflexvit_base_patch16_gap", TINY),
    "vision_transformer_sam": ("samvit_base_patch16_224", TINY | {"global_attn_indexes": [1]}),
    **{
        module: (architecture, {})
        for module, architecture in {
            "byoanet": "halonet_h1",
            "byobnet": "test_byobnet",
            "cait": "cait_xxs24_224",
            "coat": "coat_tiny",
            "convit": "convit_tiny",
            "convmixer": "convmixer_768_32",
            "convnext": "test_convnext",
            "cpubone": "cpubone_nano",
            "crossvit": "crossvit_tiny_240",
            "csatv2": "csatv2",
            "cspnet": "cs3darknet_focus_s",
            "cspnext": "cspnext_tiny",
            "davit": "davit_tiny",
            "deit": "deit_tiny_patch16_224",
            "densenet": "densenet121",
            "dla": "dla46x_c",
            "dpn": "dpn48b",
            "edgenext": "edgenext_xx_small",
            "efficientformer": "efficientformer_l1",
            "efficientformer_v2": "efficientformerv2_s0",
            "efficientnet": "test_efficientnet",
            "efficientvim": "efficientvim_m1",
            "efficientvit_mit": "efficientvit_b0",
            "efficientvit_msra": "efficientvit_m0",
            "eva": "vit_tiny_patch16_dinov3_qkvb",
            "fasternet": "fasternet_t0",
            "fastvit": "fastvit_t8",
            "focalnet": "focalnet_tiny_srf",
            "gcvit": "gcvit_xxtiny",
            "ghostnet": "ghostnet_050",
            "hardcorenas": "hardcorenas_a",
            "hgnet": "hgnetv2_b0",
            "hiera": "hiera_tiny_224",
            "hieradet_sam2": "hieradet_small",
            "hrnet": "hrnet_w18_small",
            "iformer": "iformer_t",
            "inception_next": "inception_next_atto",
            "inception_resnet_v2": "inception_resnet_v2",
            "inception_v3": "inception_v3",
            "inception_v4": "inception_v4",
            "lcnetv2": "lcnetv2_small",
            "levit": "levit_128s",
            "lowformer": "lowformer_b0",
            "mambaout": "test_mambaout",
            "maxxvit": "test_maxvit",
            "metaformer": "poolformer_s12",
            "mlp_mixer": "gmlp_ti16_224",
            "mobilenetv3": "mobilenetv3_small_050",
            "mobilenetv5": "mobilenetv5_base",
            "mobilevit": "mobilevit_xxs",
            "mvitv2": "mvitv2_tiny",
            "nasnet": "nasnetalarge",
            "nest": "nest_tiny",
            "nextvit": "nextvit_small",
            "nfnet": "test_nfnet",
            "pit": "pit_ti_224",
            "pnasnet": "pnasnet5large",
            "pvt_v2": "pvt_v2_b0",
            "rdnet": "rdnet_tiny",
            "regnet": "regnetx_002",
            "repghost": "repghostnet_050",
            "repvit": "repvit_m0_9",
            "res2net": "res2net50_26w_4s",
            "resnest": "resnest14d",
            "resnet": "test_resnet",
            "resnetv2": "resnetv2_18",
            "rexnet": "rexnetr_100",
            "selecsls": "selecsls42",
            "senet": "legacy_seresnet18",
            "sequencer": "sequencer2d_s",
            "shvit": "shvit_s1",
            "sknet": "skresnet18",
            "starnet": "starnet_s050",
            "swiftformer": "swiftformer_xs",
            "swin_transformer": "swin_tiny_patch4_window7_224",
            "swin_transformer_v2": "swinv2_tiny_window8_256",
            "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
            "tiny_vit": "tiny_vit_5m_224",
            "tnt": "tnt_s_patch16_224",
            "tresnet": "tresnet_m",
            "twins": "twins_svt_small",
            "vgg": "vgg11",
            "visformer": "visformer_tiny",
            "vision_transformer": "test_vit",
            "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
            "vision_transformer_relpos": "test_vit_relpos",
            "vitamin": "vitamin_small_224",
            "volo": "volo_d1_224",
            "vovnet": "ese_vovnet19b_slim_dw",
            "xception": "legacy_xception",
            "xception_aligned": "xception41",
            "xcit": "xcit_nano_12_p16_224",
        }.items()
    },
}


def write_timm_config(folder: Path, architecture: str, arguments: dict[str, Any]) -> Path:
    """A folder that describes a network with arguments of its own; there are no weights in it."""
    folder.mkdir()
    preprocessing: Any = timm.get_pretrained_cfg(architecture)
    preprocessing = {key: value for key, value in preprocessing.to_dict().items() if value is not None}
    described = {"architecture": architecture, "num_classes": 2, "model_args": arguments, "pretrained_cfg": preprocessing}
    (folder / "config.json").write_text(json.dumps(described, default=str))
    return folder


# --- the road -------------------------------------------------------------------------------------------------------------------

STAGES = {
    "head": Stage(unfreeze="head", lr=1e-2),
    "top": Stage(unfreeze="last 2", lr=1e-1, optimizer="sgd"),
    "all": Stage(unfreeze="all", lr=1e-1, optimizer="sgd"),
}


def write_texts(folder: Path) -> Path:
    """16 texts to train, 8 to validate, 8 to test, of 2 to 13 words."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for split, rows in (("train", 16), ("validation", 8), ("test", 8)):
        with (folder / f"{split}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for row in range(rows):
                words = [WORDS[place] for place in generator.integers(len(WORDS), size=2 + row % 12)]
                writer.writerow([f"{split[0]}{row} {' '.join(words)}", "pos" if row % 2 else "neg"])
    return folder


class Roads:
    """The data of both kinds, read once, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts = TextData(source=str(write_texts(folder / "texts")), max_length=24)
        digits = write_digits(folder / "digits", range(2), train_per_class=6)
        self.pictures = ImageData(source=str(digits), validation_fraction=0.3, max_test_samples=4)
        self._splits = {data.kind: load_splits(data, seed=0) for data in (self.texts, self.pictures)}

    def text(self, name: str) -> Row:
        """A small model of one class of transformers."""
        row = Row("transformers", name, class_name(text_classes()[name]), taken=False)
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            checkpoint = Path(work) / "model"
            write_text_model(name, checkpoint)
            return self._travelled(row, self.texts, Transformer(checkpoint=str(checkpoint)), Path(work))

    def picture(self, module: str) -> Row:
        """The small network of one module of timm, on pictures of 64 pixels, else of 128, else of the size it is made for."""
        architecture, arguments = TIMM[module]
        row = Row("timm", module, architecture, taken=False)
        for size in (64, 128, None):
            with tempfile.TemporaryDirectory(dir=self.folder) as work:
                checkpoint = architecture
                if arguments:
                    checkpoint = str(write_timm_config(Path(work) / "model", architecture, arguments))
                data = self.pictures.model_copy(update={"image_size": size})
                row = self._travelled(row, data, Timm(checkpoint=checkpoint, pretrained=False), Path(work))
            if row.taken:
                break
        return row

    def _travelled(self, row: Row, data: TextData | ImageData, model: Transformer | Timm, work: Path) -> Row:
        recipe = Recipe(
            name="sweep", data=data, model=model, stages=STAGES, run=RunSettings(batch_size=8, precision="fp32", workers=0)
        )
        splits = self._splits[data.kind]
        torch.manual_seed(0)
        try:
            experiment = Experiment(recipe, splits, build_classifier(recipe, splits.label_names, texts=()), asked=recipe)
            make_plan(experiment)
        except RecipeError as error:
            [problem] = error.problems
            said = [each for each in (problem.what, *problem.help) if each and each != ANOTHER]  # which is said of most
            return replace(row, why=". ".join(each.strip(". ") for each in said).replace(str(work / "model"), "model"))
        for stage in ("top", "all"):
            take_a_step(experiment, stage)
        check_serving(experiment, work / "saved")
        names = experiment.classifier.chain.names
        seen = dict.fromkeys(str(found) for found in experiment.boundaries.values() if isinstance(found, NotSeparable))
        remarks = experiment.classifier.facts.get("remarks", [])
        return replace(row, taken=True, groups=shortened(names), kept="; ".join(seen) or "yes", why=" ".join(remarks))


def shortened(names: Sequence[str]) -> str:
    """The names of a chain, those in the middle of a long one left out."""
    return " → ".join(names if len(names) <= 7 else (*names[:3], "…", *names[-2:]))


def take_a_step(experiment: Experiment, stage: str) -> None:
    """One step on eight training examples as the engine takes it: what is frozen stays, what trains moves."""
    model, chain = experiment.classifier.model, experiment.classifier.chain
    resolved = next(each for each in experiment.stages if each.name == stage)
    trains = resolved.trains
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = group_hashes(tensors, chain)
    freeze(model, chain, trains)
    optimizer = make_optimizer(resolved.optimizer, model, resolved.param_groups, lr=resolved.lr)
    train_mode(model, chain, trains)
    inputs, labels = batch_of(experiment, experiment.splits.train, train=True)
    loss = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    model.eval()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss), f"the loss is {float(loss)}"
    after = group_hashes({**dict(model.named_parameters()), **dict(model.named_buffers())}, chain)
    wrong = [group["name"] for group in prove(stage, trains, before, after, kept=True)["groups"] if not group["ok"]]
    assert not wrong, f"in stage {stage} {wrong} should have stayed, or moved"


def batch_of(experiment: Experiment, split: Dataset, *, train: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the model takes of the first eight examples, and their labels."""
    samples = make_samples(experiment.recipe, experiment.classifier, split, train=train)
    first = range(min(8, len(samples)))
    batch = samples.collate([samples[0, index] for index in first])
    return samples.to_device(batch, torch.device("cpu")), torch.from_numpy(samples.targets[: len(first)].astype("int64"))


@torch.no_grad()
def settle_statistics(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Give BatchNorm the statistics of these inputs: with those of a single step a deep network makes large numbers of rounding."""
    if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        model.train()
        for _ in range(30):
            model(**inputs)
        model.eval()


def check_serving(experiment: Experiment, folder: Path) -> None:
    """What is saved gives the logits of training: loaded by hftl, and served by transformers, one example at a time."""
    classifier, test = experiment.classifier, experiment.splits.test
    assert test is not None
    inputs, _ = batch_of(experiment, test, train=False)
    settle_statistics(classifier.model, inputs)
    save_classifier(classifier, folder)
    loaded = load_classifier(folder).model
    loaded.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        logits = classifier.model(**inputs).logits
        assert torch.equal(loaded(**inputs).logits, logits), "loaded again it gives other logits"
    if isinstance(experiment.recipe.data, TextData):
        serve: Any = pipeline("text-classification", model=str(folder), device="cpu")
        answers = [serve(row["text"], top_k=None, function_to_apply="none", truncation=True) for row in test]
    else:
        serve = pipeline("image-classification", model=str(folder), device="cpu")
        files = [Path(experiment.recipe.data.source) / row["id"] for row in test]
        answers = [serve(str(file), top_k=None, function_to_apply="none") for file in files]
    names = experiment.splits.label_names
    served = [[next(one["score"] for one in answer if one["label"] == name) for name in names] for answer in answers]
    apart = float((torch.tensor(served) - logits).abs().max() / logits.abs().max())
    assert apart < TOLERANCE, f"served, its logits are {apart:.1e} apart"


# --- the table ------------------------------------------------------------------------------------------------------------------


def line(row: Row) -> str:
    """A row of the document's tables."""
    cells = (
        (row.name, f"`{row.model}`", row.groups, row.kept, row.why)
        if row.taken
        else (row.name, f"`{row.model}`", "refused", "", row.why)
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def document(rows: Sequence[Row]) -> str:
    """docs/models.md."""
    counts = {
        f"{library}_{what}": sum(row.library == library and row.taken == taken for row in rows)
        for library in ("transformers", "timm")
        for what, taken in (("taken", True), ("refused", False))
    }
    counts |= {f"{library}_all": sum(row.library == library for row in rows) for library in ("transformers", "timm")}
    text = [HEAD.format(transformers=transformers.__version__, timm=timm.__version__, **counts)]
    for library, title, name, model in (
        ("transformers", "Text: the classes of transformers", "model_type", "class"),
        ("timm", "Pictures: the modules of timm", "module", "tried"),
    ):
        header = f"| {name} | {model} | chain | frozen layers kept | besides, or why refused |"
        chosen = sorted((row for row in rows if row.library == library), key=lambda row: row.name)
        text += ["", f"## {title}", "", header, "|---|---|---|---|---|", *map(line, chosen)]
    return "\n".join(text) + "\n"


def read_rows(path: Path) -> list[Row]:
    return [Row(**json.loads(each)) for each in path.read_text().splitlines()] if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--only", nargs="*", help="model types and modules of timm; all of them by default")
    parser.add_argument("--write", action="store_true", help="write docs/models.md from the rows")
    arguments = parser.parse_args()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    disable_progress_bars()
    done = {(row.library, row.name) for row in read_rows(arguments.rows)}
    defects = 0
    with tempfile.TemporaryDirectory() as folder, arguments.rows.open("a") as stream:
        roads = Roads(Path(folder))
        wanted: list[tuple[str, str, Callable[[str], Row]]] = [
            *(("transformers", name, roads.text) for name in text_classes()),
            *(("timm", name, roads.picture) for name in TIMM),
        ]
        for library, name, road in wanted:
            if (library, name) in done or (arguments.only and name not in arguments.only):
                continue
            try:
                row = road(name)
            except DEFECTS:  # all that is wrong is said, and then the sweep fails
                traceback.print_exc()
                print(f"DEFECT: {library} {name}", file=sys.stderr, flush=True)
                defects += 1
            else:
                print(json.dumps(asdict(row), ensure_ascii=False), file=stream, flush=True)
    if arguments.write and not defects:
        DOCUMENT.write_text(document(read_rows(arguments.rows)), encoding="utf-8")
    sys.exit(min(defects, 1))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
