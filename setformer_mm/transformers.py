"""The encoder of sequences in Hugging Face's transformers.

``import setformer_mm.transformers`` registers the family as ``"setformer"`` with
``AutoConfig``, ``AutoModel`` and the auto classes of its two heads. Tokenizers are the
user's; a batch is padded on the right. It needs transformers 5 (the extra
``[transformers]``), beside which mmpretrain 1.3 cannot be imported
(docs/sequences.md).
"""

from fractions import Fraction

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
)
from transformers.utils import can_return_tuple

from .models.mixers import PivotAttention
from .models.set_attention import SeTAttention, init_directions
from .models.set_encoder import SeTEncoder, pool
from .ops.valid import is_traced

POOLINGS = ("mean", "first")
# Fields of a config that are positive integers.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)


class SeTformerConfig(PreTrainedConfig):
    """What a model is built from; names and sizes are those of BERT-base.

    Heads are 24, not 12: SeT attention has 32 channels a head.

    Args:
        vocab_size (int): Tokens that the tokenizer knows.
        hidden_size (int): Channels.
        num_hidden_layers (int): Blocks.
        num_attention_heads (int): Heads.
        intermediate_size (int): Hidden channels of the MLP.
        attention (dict, optional): See :class:`~setformer_mm.models.SeTEncoder`.
        max_position_embeddings (int): Tokens of the longest sequence.
        type_vocab_size (int): Parts of a sequence, as the two of a pair of sentences.
        hidden_dropout_prob (float): Of embeddings.
        classifier_dropout (float, optional): Before the classifier; that of embeddings
            if None.
        drop_path_rate (float): See :class:`~setformer_mm.models.SeTEncoder`.
        pooling (str): What stands for a sequence: the "mean" of its tokens or the
            "first".
        initializer_range (float): Standard deviation of weights at the beginning.
        pad_token_id (int, optional): Whose embedding is 0.
    """

    model_type = "setformer"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 24
    intermediate_size: int = 3072
    attention: dict | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    drop_path_rate: float = 0.0
    pooling: str = "mean"
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True


def check_config(config: SeTformerConfig) -> None:
    """Check what no part of the model would name by the config's name.

    Raises:
        ValueError: If a field is out of its rule.
    """
    for name in SIZES:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    pad, size = config.pad_token_id, config.vocab_size
    if pad is not None and not -size <= pad < size:
        raise ValueError(f"pad_token_id must be below vocab_size = {size}, got {pad}")
    if config.pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}, got {config.pooling!r}")
    attention = config.attention
    kind = attention.get("type") if isinstance(attention, dict) else None
    if isinstance(kind, type):
        raise ValueError(
            f"the type of attention must be a name, which can be saved, got {kind!r}"
        )


class SeTformerEmbeddings(nn.Module):
    """Embeddings of tokens, their positions and the parts they belong to, added up."""

    def __init__(self, config: SeTformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, size, config.pad_token_id)
        self.positions = nn.Embedding(config.max_position_embeddings, size)
        self.types = nn.Embedding(config.type_vocab_size, size)
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed.

        Args:
            words (Tensor): Embedded tokens of shape ``(B, N, C)``.
            token_type_ids (Tensor, optional): Their parts, int64 of shape ``(B, N)``;
                None if all belong to the first.

        Raises:
            ValueError: If they have another shape, or are longer than there are
                positions.
        """
        if words.dim() != 3 or words.shape[2] != self.words.embedding_dim:
            raise ValueError(
                f"inputs must be tokens (B, N) or embedded (B, N, "
                f"{self.words.embedding_dim}), got {tuple(words.shape)} when embedded"
            )
        count, most = words.shape[1], self.positions.num_embeddings
        if count > most:
            raise ValueError(
                f"sequences may have max_position_embeddings = {most} tokens, got "
                f"{count}; truncate them or build the model with more"
            )
        types = (
            self.types.weight[0]
            if token_type_ids is None
            else self.types(token_type_ids)
        )
        return self.dropout(self.norm(words + self.positions.weight[:count] + types))


class SeTformerPreTrainedModel(PreTrainedModel):
    """What the models have in common."""

    config_class = SeTformerConfig
    base_model_prefix = "setformer"
    supports_gradient_checkpointing = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SeTAttention):
            for directions in module.parameters(recurse=False):
                if not getattr(directions, "_is_hf_initialized", False):
                    init_directions(directions)
        elif isinstance(module, PivotAttention):
            module.reset_parameters()  # transformers guards torch's functions in it

    def _set_gradient_checkpointing(self, enable: bool = True, **_) -> None:
        self.base_model.encoder.stage.with_cp = enable

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether blocks are computed again in the backward pass."""
        return self.base_model.encoder.stage.with_cp


class SeTformerModel(SeTformerPreTrainedModel):
    """Embeddings and encoder, without a head."""

    def __init__(self, config: SeTformerConfig) -> None:
        super().__init__(config)
        check_config(config)
        self.embeddings = SeTformerEmbeddings(config)
        self.encoder = SeTEncoder(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            Fraction(config.intermediate_size, config.hidden_size),  # exact
            config.attention,
            config.drop_path_rate,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.words

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.words = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode.

        Args:
            input_ids (Tensor, optional): Tokens, int64 of shape ``(B, N)``.
            attention_mask (Tensor, optional): 1 for tokens and 0 for the padding behind
                them, of shape ``(B, N)``; None if there is none.
            token_type_ids (Tensor, optional): See :class:`SeTformerEmbeddings`.
            inputs_embeds (Tensor, optional): Embedded tokens of shape ``(B, N, C)``,
                instead of ``input_ids``.

        Returns:
            BaseModelOutputWithPooling: Tokens ``(B, N, C)``, 0 in what is padding, and
            ``pooler_output`` of shape ``(B, C)``.

        Raises:
            ValueError: If there are neither or both kinds of inputs, or inputs or mask
                have another shape, or padding does not stand behind the tokens.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.words(input_ids)
        embedded = self.embeddings(inputs_embeds, token_type_ids)
        lengths = None
        if attention_mask is not None:
            if attention_mask.shape != embedded.shape[:2]:
                raise ValueError(
                    f"attention_mask must be (B, N) = {tuple(embedded.shape[:2])}, got "
                    f"{tuple(attention_mask.shape)}"
                )
            lengths = lengths_of(attention_mask)
        tokens = self.encoder(embedded, lengths)
        pooled = pool(tokens, lengths, self.config.pooling)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=pooled
        )


class SeTformerForSequenceClassification(SeTformerPreTrainedModel):
    """A linear classifier of whole sequences, or with one label a regression."""

    def __init__(self, config: SeTformerConfig) -> None:
        super().__init__(config)
        self.setformer = SeTformerModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(
            config.hidden_dropout_prob if dropout is None else dropout
        )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds: See
                :meth:`SeTformerModel.forward`.
            labels (Tensor, optional): Of shape ``(B,)``: int64, or floating for a
                regression.

        Returns:
            SequenceClassifierOutput: Logits ``(B, labels)``, and with ``labels`` the
            loss.
        """
        outputs = self.setformer(
            input_ids, attention_mask, token_type_ids, inputs_embeds, return_dict=True
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class SeTformerForMaskedLM(SeTformerPreTrainedModel):
    """What stands where tokens are masked; the head is BERT's."""

    _tied_weights_keys = {"decoder.weight": "setformer.embeddings.words.weight"}

    def __init__(self, config: SeTformerConfig) -> None:
        super().__init__(config)
        self.setformer = SeTformerModel(config)
        self.transform = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.GELU(),
            nn.LayerNorm(config.hidden_size),
        )
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.decoder = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> MaskedLMOutput:
        """Predict tokens.

        Args:
            input_ids, attention_mask, token_type_ids, inputs_embeds: See
                :meth:`SeTformerModel.forward`.
            labels (Tensor, optional): Tokens, int64 of shape ``(B, N)``; -100 where
                nothing is asked.

        Returns:
            MaskedLMOutput: Logits ``(B, N, vocab_size)``, and with ``labels`` the loss.
        """
        outputs = self.setformer(
            input_ids, attention_mask, token_type_ids, inputs_embeds, return_dict=True
        )
        logits = self.decoder(self.transform(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return MaskedLMOutput(loss=loss, logits=logits)


def lengths_of(attention_mask: Tensor) -> Tensor | None:
    """Tokens of each sequence, int64 of shape ``(B,)``; None if nothing is padding.

    Args:
        attention_mask (Tensor): 1 for tokens and 0 for padding, of shape ``(B, N)``.

    Raises:
        ValueError: If padding does not stand behind the tokens, where one can look: not
            while a graph is made.
    """
    is_token = attention_mask.bool()
    if not is_traced():
        if is_token.all():
            return None
        if (is_token[:, 1:] > is_token[:, :-1]).any():
            raise ValueError(
                "attention_mask must be ones with zeros behind them; set the "
                "tokenizer's padding_side to 'right'"
            )
    return is_token.sum(1)


AutoConfig.register(SeTformerConfig.model_type, SeTformerConfig, exist_ok=True)
for auto_class, model_class in (
    (AutoModel, SeTformerModel),
    (AutoModelForMaskedLM, SeTformerForMaskedLM),
    (AutoModelForSequenceClassification, SeTformerForSequenceClassification),
):
    auto_class.register(SeTformerConfig, model_class, exist_ok=True)
