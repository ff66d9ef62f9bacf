"""The blocks that every model here is made of: decoder layers between an embedding and a head.

What differs between families (biases, norms of heads, windows) is in the spec.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.layers.decoder import Decoder, SegmentedDecoder
from penstock.layers.decoder_weights import DecoderWeights
from penstock.layers.device_ops import DeviceOps
from penstock.layers.parameters import LayerScales, Matrix, Slot, Vector, all_slots
from penstock.layers.rotary import rotary_table
from penstock.layers.segment import Segment
from penstock.layers.weight_form import WeightForm
from penstock.models.spec import ModelSpec
from penstock_kernels.cpu.decoder_plan import DecoderLayer as PlannedLayer
from penstock_kernels.cpu.decoder_plan import DecoderShape


class DecoderLayer:
    """Attention and a gated MLP, each behind an RMSNorm and beside a residual connection."""

    def __init__(self, spec: ModelSpec, index: int, *, ops: DeviceOps, form: WeightForm) -> None:
        self.window = spec.window(index)
        prefix = f"model.layers.{index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        hidden, inner = spec.hidden_size, spec.intermediate_size
        q_rows, kv_rows = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim

        def matrix(rows: dict[str, int], in_features: int, has_bias: bool, is_gated: bool = False) -> Matrix:
            return Matrix(rows, in_features, ops=ops, form=form, has_bias=has_bias, is_gated=is_gated)

        qkv_rows = {f"{attention}.q_proj": q_rows, f"{attention}.k_proj": kv_rows, f"{attention}.v_proj": kv_rows}
        gate_up_rows = {f"{mlp}.gate_proj": inner, f"{mlp}.up_proj": inner}
        self.input_norm = Vector(f"{prefix}.input_layernorm.weight", hidden, ops)
        self.qkv = matrix(qkv_rows, hidden, spec.attention_bias)
        self.output = matrix({f"{attention}.o_proj": hidden}, q_rows, spec.output_bias)
        self.post_norm = Vector(f"{prefix}.post_attention_layernorm.weight", hidden, ops)
        self.gate_up = matrix(gate_up_rows, hidden, spec.mlp_bias, is_gated=True)
        self.down = matrix({f"{mlp}.down_proj": hidden}, inner, spec.mlp_bias)
        self.q_norm = Vector(f"{attention}.q_norm.weight", spec.head_dim, ops) if spec.qk_norm else None
        self.k_norm = Vector(f"{attention}.k_norm.weight", spec.head_dim, ops) if spec.qk_norm else None
        self.kv_scales = LayerScales(attention)

    @property
    def parameters(self) -> list[Vector | Matrix]:
        """All parameters of the layer."""
        head_norms = [norm for norm in (self.q_norm, self.k_norm) if norm is not None]
        return [self.input_norm, self.qkv, *head_norms, self.output, self.post_norm, self.gate_up, self.down]

    def planned(self) -> PlannedLayer:
        """The loaded layer as the device runs it."""
        return PlannedLayer(
            input_norm=self.input_norm.value,
            qkv=self.qkv.packed,
            output=self.output.packed,
            mlp_norm=self.post_norm.value,
            gate_up=self.gate_up.packed,
            down=self.down.packed,
            q_norm=None if self.q_norm is None else self.q_norm.value,
            k_norm=None if self.k_norm is None else self.k_norm.value,
            sliding_window=self.window,
        )


class CausalLM:
    """A decoder-only language model on one device: fill all its slots, give it what runs it, then use it.

    `has_float8_cache`: keys and values are divided by the checkpoint's scales, if it has them.
    """

    def __init__(
        self, spec: ModelSpec, *, ops: DeviceOps, form: WeightForm, max_length: int, has_float8_cache: bool = False
    ) -> None:
        self.spec = spec
        self.ops = ops
        self.has_float8_cache = has_float8_cache
        vocabulary_form = form if form.bits is None else replace(form, bits=8)  # 4 bits cost the head too much accuracy
        self.embedding = self._vocabulary("model.embed_tokens", vocabulary_form)
        self.layers = [DecoderLayer(spec, index, ops=ops, form=form) for index in range(spec.num_layers)]
        self.final_norm = Vector("model.norm.weight", spec.hidden_size, ops)
        self.head = self.embedding if spec.tie_word_embeddings else self._vocabulary("lm_head", vocabulary_form)
        cos_sin = rotary_table(
            spec.head_dim, spec.rope_theta, spec.rope_scaling, length=max_length, context=spec.max_position
        )
        self.cos_sin = ops.place(cos_sin)
        self._decoder: Decoder | None = None
        self._segmented: SegmentedDecoder | None = None

    def _vocabulary(self, name: str, form: WeightForm) -> Matrix:
        return Matrix({name: self.spec.vocab_size}, self.spec.hidden_size, ops=self.ops, form=form)

    @property
    def parameters(self) -> list[Vector | Matrix]:
        """All parameters, each once."""
        layers = [parameter for layer in self.layers for parameter in layer.parameters]
        head = [] if self.head is self.embedding else [self.head]
        return [self.embedding, *layers, self.final_norm, *head]

    def slots(self) -> dict[str, Slot]:
        """Every tensor that a checkpoint must or may have, by its name there."""
        scales = [layer.kv_scales for layer in self.layers] if self.has_float8_cache else []
        return all_slots([*self.parameters, *scales])

    def decoder_weights(self) -> DecoderWeights:
        """The loaded model, for what runs it."""
        spec = self.spec
        return DecoderWeights(
            embedding=self.embedding.packed,
            layers=[layer.planned() for layer in self.layers],
            final_norm=self.final_norm.value,
            head=self.head.packed,
            cos_sin=self.cos_sin,
            shape=DecoderShape(num_heads=spec.num_heads, scale=spec.head_dim**-0.5, eps=spec.rms_norm_eps),
            kv_scales=[layer.kv_scales.value for layer in self.layers],
        )

    def run_by(self, decoder: Decoder) -> None:
        """Let `decoder`, made of `decoder_weights`, run the model."""
        self._decoder = decoder

    def run_in_segments_by(self, decoder: SegmentedDecoder) -> None:
        """The same for a decoder that can be cut."""
        self._decoder = self._segmented = decoder

    @property
    def weights_nbytes(self) -> int:
        """Memory of all weights in bytes."""
        sizes = (p.packed.nbytes if isinstance(p, Matrix) else p.value.nbytes for p in self.parameters)
        return sum(sizes)

    def forward(self, batch: ForwardBatch) -> Tensor:
        """[num_tokens, hidden_size] before the final norm; writes keys and values into the cache."""
        assert self._decoder is not None, "nothing runs the model yet"
        return self._decoder.forward(batch)

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """`hidden` [k, hidden_size] -> float32 [k, vocab_size]; the final norm is included."""
        assert self._decoder is not None, "nothing runs the model yet"
        return self._decoder.logits(hidden, out)

    def segments(self, batch: ForwardBatch) -> list[Segment]:
        """A step of this batch's shape on a GPU, on the memory of its tensors: see `GpuDecoder.segments`."""
        assert self._segmented is not None, "the model does not run on a GPU"
        return self._segmented.segments(batch)

    @property
    def hidden(self) -> Tensor:
        """[max_tokens, hidden_size]: where the last segment leaves its result, before the final norm."""
        assert self._segmented is not None, "the model does not run on a GPU"
        return self._segmented.hidden
