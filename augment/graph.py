"""What DALI does with a batch: decode it, or the whole of a sample's way up to what the network gets.

On a CPU the loader only decodes here: cropping and flipping whole pictures afterwards, in the finish, costs less than
DALI's own operators (the benchmark beside the peers has a pipeline that uses them). On a GPU the whole graph is the
default: pictures are decoded by the CPU's decoder, whose pixels are the reference's, and travel whole. The tests run the
same graph on a CPU and hold it to the reference bit for bit. It makes one crop of each picture: ten views are not for it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from augment.choices import Choices
from augment.finish import mean_image
from augment.pipeline import Inputs, scalars
from augment.reader import Bytes, stored_picture
from augment.settings import LoaderSettings
from ingest.centring import SCALE


def decoded() -> Any:
    """JPEGs to uint8 (side, side, 3) RGB on the CPU."""
    from nvidia.dali import fn, types

    encoded = fn.external_source(name="picture", dtype=types.UINT8, ndim=1, no_copy=True)
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)


class WholeGraph:
    """The graph from payloads (jpeg, raw or centered) to (crop + border, crop + border, 3) on a device.

    uint8, or float32 (bfloat16 is made of that later: DALI has none). `mean` is float64 (side, side, 3); `divides`:
    whether any sample is divided by another number than 1. Operations and their order are those of choices.md.
    """

    def __init__(
        self,
        payload: str,
        mean: npt.NDArray[np.float64],
        settings: LoaderSettings,
        divides: bool,
        device: torch.device,
    ) -> None:
        self._payload, self._settings, self._divides = payload, settings, divides
        self._side, self._is_gpu = len(mean), device.type == "cuda"
        self._mean = mean_image(mean, settings.mean, settings.crop)

    def inputs(self, payloads: list[Bytes], choices: Choices) -> Inputs:
        """What the graph is fed."""
        start = np.stack([choices.y, choices.x], axis=1).astype(np.int32)
        fed = {"start": list(start), "mirror": scalars(choices.mirror.astype(np.int32))}
        if self._settings.output != "uint8":
            fed["offset"] = list(choices.offset)
            if self._divides:
                fed["divide"] = list(choices.divide[:, None])
        if self._payload == "jpeg":
            return {"picture": list(payloads), **fed}
        return {"picture": [stored_picture(payload, self._payload, self._side) for payload in payloads], **fed}

    def __call__(self) -> Any:
        """Defines the graph, inside a pipeline."""
        from nvidia.dali import fn, types

        settings, crop = self._settings, self._settings.crop
        start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
        mirror = fn.external_source(name="mirror", dtype=types.INT32, ndim=0)

        def cut(image: Any) -> Any:
            return fn.flip(fn.slice(image, start=start, shape=[crop, crop], axes=[0, 1]), horizontal=mirror)

        pixels = cut(self._here(self._picture()))
        if settings.output == "uint8":
            return pixels
        values = fn.cast(pixels, dtype=types.FLOAT)
        if self._payload == "centered":
            values = values * np.float32(1 / SCALE)  # A power of two: exact.
        else:
            mean = types.Constant(self._mean, device="gpu" if self._is_gpu else "cpu")
            mean = fn.reshape(mean, layout="HWC")
            values = values - (cut(mean) if settings.mean == "aligned" else mean)
        offset = self._here(fn.external_source(name="offset", dtype=types.FLOAT, ndim=1))
        values = values + fn.reshape(offset, shape=[1, 1, 3])
        if self._divides:
            divide = self._here(fn.external_source(name="divide", dtype=types.FLOAT, ndim=1))
            values = values / fn.reshape(divide, shape=[1, 1, 1])
        side = crop + settings.border
        return fn.pad(values, axes=[0, 1], shape=[side, side]) if settings.border else values

    def _picture(self) -> Any:
        from nvidia.dali import fn, types

        if self._payload == "jpeg":
            return decoded()
        kind = types.INT16 if self._payload == "centered" else types.UINT8
        return fn.external_source(name="picture", dtype=kind, ndim=3, layout="HWC", no_copy=True)

    def _here(self, value: Any) -> Any:
        """A value on the graph's device. Arguments of operators stay on the CPU."""
        return value.gpu() if self._is_gpu else value
