"""What prompts mean to the model; each text is encoded once."""

from collections import OrderedDict
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

# transformers types neither the tokenizer's call nor the model's answer.
Tokenizer: TypeAlias = Any
TextEncoder: TypeAlias = Any

#: Texts that are remembered; of the real model 0.2 MB each.
_REMEMBERED: Final = 256


class Meaning(NamedTuple):
    """A text as the UNet takes it.

    Attributes:
        words: [1, 77, width], the last hidden states, before the final norm.
        pooled: [1, width].
    """

    words: Tensor
    pooled: Tensor


class Prompts:
    """Texts in, meanings out.

    Args:
        tokenizer: Cuts what is longer than it allows.
        text_encoder: On the device.
        device: Where texts are encoded and meanings are used.
        dtype: Likewise.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._device = device
        self._dtype = dtype
        self._resting = device
        self._known: OrderedDict[str, Meaning] = OrderedDict()

    def meaning(self, text: str) -> Meaning:
        """What a text means."""
        if text not in self._known:
            self._known[text] = self._encoded(text)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(text)
        return self._known[text]

    def rest(self, device: torch.device) -> None:
        """Keep the encoder there between texts; what is known stays where it is used."""
        self._resting = device
        self._text_encoder.to(device)

    def _encoded(self, text: str) -> Meaning:
        read = self._tokenizer(
            [text],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        # Not where it rests: there the bits might be others.
        self._text_encoder.to(self._device)
        try:
            told = self._text_encoder(read.input_ids.to(self._device), output_hidden_states=True)
        finally:
            self._text_encoder.to(self._resting)
        place = {"device": self._device, "dtype": self._dtype}
        return Meaning(told.hidden_states[-1].to(**place), told.pooler_output.to(**place))
