"""Three text classifiers over word vectors: convolutions with max over time, a bidirectional LSTM, and a mean with n-grams.

A part of hftl (Apache-2.0), which trained these models. It imports torch and transformers only: a copy of this file lies beside
the weights of every saved model, named by `auto_map` in config.json, and with it they load where hftl is not installed:

    pipeline("text-classification", model=FOLDER_OR_REPOSITORY, trust_remote_code=True)
    AutoModelForSequenceClassification.from_pretrained(FOLDER_OR_REPOSITORY, trust_remote_code=True)

Where hftl is imported its own classes are used and the copy is not run.

Shapes: B texts, L words of the longest, D dimensions of a word, C channels, W kernel widths, H hidden units, K classes.
Padding is on the right. A text gets the same logits alone and padded in a batch; a text without a word is read as one <unk>.

References: Kim 2014, arXiv:1408.5882 (TextCNN; the second, trainable table follows its two-channel variant, side by side
instead of summed); Graves & Schmidhuber 2005 (bidirectional LSTM); Jozefowicz et al. 2015 (forget gate's bias of 1);
Joulin et al. 2017, arXiv:1607.01759 (mean of embeddings of words and n-grams).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput


class _GloveConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What the classifiers share.

    `vocab_size` counts <pad> (row 0) and <unk> (row 1); `vector_dim` is the width of the word vectors, `trainable_dim` that of the
    second, randomly initialised table beside them (0: none); `vectors` is the file name the vectors came from.
    """

    vocab_size: int = 2
    vector_dim: int = 50
    trainable_dim: int = 0
    dropout: float = 0.5
    word_dropout: float = 0.0
    pad_token_id: int = 0
    unk_token_id: int = 1
    vectors: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if not (0 <= self.pad_token_id < self.vocab_size and 0 <= self.unk_token_id < self.vocab_size):
            raise ValueError(
                f"pad_token_id {self.pad_token_id} and unk_token_id {self.unk_token_id} must be among the {self.vocab_size} words"
            )


class GloveTextCNNConfig(_GloveConfig):  # type: ignore[no-untyped-call]
    """Configuration of `TextCNNForSequenceClassification`; `channels` is the number of feature maps of each kernel width."""

    model_type = "hftl_textcnn"

    kernel_widths: Sequence[int] = (3, 4, 5)
    channels: int = 100

    def __post_init__(self, **kwargs: Any) -> None:
        self.kernel_widths = list(self.kernel_widths)  # as JSON gives it back
        super().__post_init__(**kwargs)


class GloveBiLSTMConfig(_GloveConfig):  # type: ignore[no-untyped-call]
    """Configuration of `BiLSTMForSequenceClassification`; `hidden_size` counts one direction."""

    model_type = "hftl_bilstm"

    hidden_size: int = 100
    layers: int = 2
    pooling: Literal["ends", "max", "mean"] = "ends"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.pooling not in ("ends", "max", "mean"):
            raise ValueError(f'pooling is "{self.pooling}"; it can be ends, max or mean')


class GloveBagConfig(_GloveConfig):  # type: ignore[no-untyped-call]
    """Configuration of `BagOfEmbeddingsForSequenceClassification`; n-grams of 2 to `ngrams` words share `buckets` rows."""

    model_type = "hftl_bag"

    ngrams: int = 2
    buckets: int = 100_000

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.ngrams < 1 or self.buckets < 1:
            raise ValueError(f"ngrams {self.ngrams} and buckets {self.buckets} must be 1 or more")


class _GloveClassifier(PreTrainedModel):
    """Word vectors in, logits out; the subclasses say how a text's words become one vector."""

    config: _GloveConfig
    config_class = _GloveConfig  # beside the annotation, which is a string here
    base_model_prefix = ""
    _input_embed_layer = "embedding"

    def __init__(self, config: _GloveConfig, features: int) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.vector_dim, padding_idx=config.pad_token_id)
        # A module of its own: the vectors can stay frozen while the words that have none are learnt here.
        self.trainable_embedding = (
            nn.Embedding(config.vocab_size, config.trainable_dim, padding_idx=config.pad_token_id) if config.trainable_dim else None
        )
        self._add_body(config, config.vector_dim + config.trainable_dim)
        self.head = nn.Sequential(
            OrderedDict(dropout=nn.Dropout(config.dropout), linear=nn.Linear(features, config.num_labels or 2))
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def _add_body(self, config: Any, width: int) -> None:
        raise NotImplementedError

    def _encode(self, words: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError

    def body_layers(self) -> list[str]:
        """Names of the modules between the tables and the head, input first."""
        raise NotImplementedError

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The functions of transformers.initialization leave alone what was loaded from a file.
        if isinstance(module, NgramTable):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=0.1)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LSTM):
            weights = dict(module.named_parameters())
            init.xavier_uniform_(weights["weight_ih_l0"])
            init.orthogonal_(weights["weight_hh_l0"])
            # Gates are stacked as input, forget, cell, output; a forget gate that starts open carries the state over 400 words.
            bias = torch.zeros_like(weights["bias_ih_l0"])
            bias[module.hidden_size : 2 * module.hidden_size] = 1.0
            init.copy_(weights["bias_ih_l0"], bias)
            init.zeros_(weights["bias_hh_l0"])
        elif isinstance(module, nn.Conv1d | nn.Linear):
            module.reset_parameters()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits of a batch, and the mean cross-entropy where labels are given.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 for words and 0 for the padding on their right; None: everything but <pad> is a word.
            labels: (B,) int64.
            token_type_ids: ignored; some tokenizers send them.

        Returns:
            `logits` (B, K), and `loss`, a scalar or None.
        """
        mask = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        if input_ids.shape[1] == 0:  # a batch of empty texts only
            input_ids, mask = input_ids.new_zeros(len(input_ids), 1, dtype=torch.int64), mask.new_zeros(len(mask), 1)
        lengths = mask.sum(dim=1)  # (B,)
        input_ids = input_ids.masked_fill(~mask, self.config.pad_token_id)
        input_ids[:, 0] = input_ids[:, 0].masked_fill(lengths == 0, self.config.unk_token_id)
        lengths = lengths.clamp(min=1)
        words = self.embedding(input_ids)  # (B, L, D); zeros at <pad>
        if self.trainable_embedding is not None:
            words = torch.cat([words, self.trainable_embedding(input_ids)], dim=-1)
        logits = self.head(self._encode(words, input_ids, lengths))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class MaxOverTimeConvolution(nn.Conv1d):
    """The strongest response of each feature map over the windows that lie inside a text.

    A text of n words has n - width + 1 windows; one shorter than the kernel has a single window, filled up with zero vectors.
    In training a share `word_dropout` of the words is hidden.
    """

    def __init__(self, width: int, channels: int, kernel_width: int, word_dropout: float = 0.0) -> None:
        super().__init__(width, channels, kernel_width)
        self.dropout = nn.Dropout1d(word_dropout)  # whole words: it takes the L words for channels

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """(B, L, D) and (B,) -> (B, C)."""
        kernel = self.kernel_size[0]
        words = nn.functional.pad(self.dropout(words), (0, 0, 0, max(kernel - words.shape[1], 0)))
        # As a picture one pixel high: of a picture the kernels take the channels last, as words have them, and nothing is copied.
        picture = words.transpose(1, 2).unsqueeze(2)  # (B, D, 1, L)
        responses = nn.functional.conv2d(picture, self.weight.unsqueeze(2), self.bias).squeeze(2).transpose(1, 2)
        windows = (lengths - kernel + 1).clamp(min=1)
        outside = torch.arange(responses.shape[1], device=words.device) >= windows[:, None]  # responses: (B, windows, C)
        # Added, since filling C responses of each window costs more, and its way back too.
        never = torch.zeros_like(outside, dtype=responses.dtype).masked_fill(outside, float("-inf"))
        # The ReLU is monotone: after the maximum it costs L times less than before, with the same result.
        return (responses + never[:, :, None]).max(dim=1).values.relu()


class TextCNNForSequenceClassification(_GloveClassifier):  # type: ignore[no-untyped-call]
    """embedding -> convolutions -> head."""

    config: GloveTextCNNConfig
    config_class = GloveTextCNNConfig

    def __init__(self, config: GloveTextCNNConfig) -> None:
        super().__init__(config, features=len(config.kernel_widths) * config.channels)

    def _add_body(self, config: GloveTextCNNConfig, width: int) -> None:
        self.convolutions = nn.ModuleList(
            MaxOverTimeConvolution(width, config.channels, kernel, config.word_dropout) for kernel in config.kernel_widths
        )

    def body_layers(self) -> list[str]:
        return ["convolutions"]

    def _encode(self, words: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return torch.cat([convolution(words, lengths) for convolution in self.convolutions], dim=1)  # (B, W * C)


class BidirectionalLSTM(nn.Module):
    """One layer: an LSTM over the words and one over the words in reverse, each text reversed within its own length.

    Reversing by index is exact whatever the padding, and lets both directions take torch's fused LSTM for padded input, which a
    packed sequence does not get. Forward and backward pass of 32 texts of 360 to 400 words, 100 units, one Zen 5 core: packed
    1,597 ms, this 228 ms (bf16: 1,411 and 150); with lengths from 20 to 400, where packing skips half of the words: 948 and 258 ms.
    """

    def __init__(self, width: int, hidden_size: int, dropout: nn.Module) -> None:
        super().__init__()
        self.dropout = dropout  # on the way in, so that a frozen lower layer ends before this layer's dropout
        self.left_to_right = nn.LSTM(width, hidden_size, batch_first=True)
        self.right_to_left = nn.LSTM(width, hidden_size, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, D) and (B,) -> (B, L, 2H): the state left to right, then right to left; meaningless at padding."""
        words = self.dropout(words)
        # Word t of n goes to n - 1 - t and back again by the same index; padding stays where it is.
        place = torch.arange(words.shape[1], device=words.device)
        reverse = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)  # (B, L)
        rightwards, _ = self.left_to_right(words)
        leftwards, _ = self.right_to_left(_take(words, reverse))
        return torch.cat([rightwards, _take(leftwards, reverse)], dim=2)


class BiLSTMForSequenceClassification(_GloveClassifier):  # type: ignore[no-untyped-call]
    """embedding -> lstm.0 -> lstm.1 -> head."""

    config: GloveBiLSTMConfig
    config_class = GloveBiLSTMConfig

    def __init__(self, config: GloveBiLSTMConfig) -> None:
        super().__init__(config, features=2 * config.hidden_size)

    def _add_body(self, config: GloveBiLSTMConfig, width: int) -> None:
        self.lstm = nn.ModuleList(
            BidirectionalLSTM(
                width if i == 0 else 2 * config.hidden_size,
                config.hidden_size,
                nn.Dropout1d(config.word_dropout) if i == 0 else nn.Dropout(config.dropout),  # whole words, then single numbers
            )
            for i in range(config.layers)
        )

    def body_layers(self) -> list[str]:
        return [f"lstm.{layer}" for layer in range(self.config.layers)]

    def _encode(self, words: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        states = words
        for layer in self.lstm:
            states = layer(states, lengths)  # (B, L, 2H)
        if self.config.pooling == "ends":
            rightwards, leftwards = states.chunk(2, dim=2)
            last = _take(rightwards, lengths[:, None] - 1)[:, 0]
            return torch.cat([last, leftwards[:, 0]], dim=1)
        padding = (torch.arange(states.shape[1], device=states.device) >= lengths[:, None])[:, :, None]
        if self.config.pooling == "max":
            return states.masked_fill(padding, float("-inf")).max(dim=1).values
        return states.masked_fill(padding, 0.0).sum(dim=1) / lengths[:, None]


class NgramTable(nn.Embedding):
    """The rows of n-grams; they start at zero."""


class HashedNgrams(nn.Module):
    """A row for every n-gram of 2 to `ngrams` words, found by a hash of its words' numbers; different n-grams may share one.

    The rows start at zero, so that a model begins as the mean of its words.
    """

    def __init__(self, ngrams: int, buckets: int, width: int, word_dropout: float = 0.0) -> None:
        super().__init__()
        self.ngrams, self.buckets = ngrams, buckets
        self.dropout = nn.Dropout1d(word_dropout)  # whole words: it takes the L words for channels
        self.table = NgramTable(buckets, width) if ngrams > 1 else None

    def forward(self, words: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, D), (B, L) and (B,) -> (B, D): the mean over the words and n-grams of a text; of n words, n - 1 bigrams."""
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        inside = (place < lengths[:, None])[:, :, None]
        total, number = (self.dropout(words) * inside).sum(dim=1), lengths.clone()
        if self.table is not None:
            code = input_ids
            for n in range(2, self.ngrams + 1):
                # The code of the n-gram that ends at a word, from that of the shorter one before it; small primes, below 2 ** 63.
                code = (nn.functional.pad(code, (1, 0))[:, :-1] * 1_000_003 + input_ids * 8_191) % 2_147_483_647
                whole = inside & (place >= n - 1)[:, None]
                total = total + (self.table(code % self.buckets) * whole).sum(dim=1)
                number = number + (lengths - n + 1).clamp(min=0)
        mean: Tensor = total / number[:, None]
        return mean


class BagOfEmbeddingsForSequenceClassification(_GloveClassifier):  # type: ignore[no-untyped-call]
    """embedding -> ngrams -> head."""

    config: GloveBagConfig
    config_class = GloveBagConfig

    def __init__(self, config: GloveBagConfig) -> None:
        super().__init__(config, features=config.vector_dim + config.trainable_dim)

    def _add_body(self, config: GloveBagConfig, width: int) -> None:
        self.ngrams = HashedNgrams(config.ngrams, config.buckets, width, config.word_dropout)

    def body_layers(self) -> list[str]:
        return ["ngrams"]

    def _encode(self, words: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        mean: Tensor = self.ngrams(words, input_ids, lengths)
        return mean


def _take(states: Tensor, places: Tensor) -> Tensor:
    """Row places[b, j] of states[b] at (b, j): (B, L, D) and (B, J) -> (B, J, D)."""
    return states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2]))
