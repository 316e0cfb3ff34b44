"""Shuffled epochs of the same stored pictures by eight peers: run by the Python of a peer's own environment.

    python -m tests.benchmarks.peer_readers write NAME KIND FOLDER    put the payloads of FOLDER into the peer's format
    python -m tests.benchmarks.peer_readers read NAME KIND FOLDER     deliver epochs as they are asked for

KIND is jpeg or raw. FOLDER holds `payloads.bin` and `samples.json` ([offset, length, label] of each payload), and
Tench's shards, which `dataloader` and `dali` read. A reader runs an epoch, says what it delivered, and then, for each
line on stdin that states a number, that many epochs. It delivers uint8 (256, 224, 224, 3) batches and their labels.
"""

import importlib.metadata
import io
import json
import random
import struct
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.abc import Loader as ModuleLoader
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch.utils.data import DataLoader, Dataset, default_collate

from tests.benchmarks import peer_writers

BATCH, SIDE, CROP = 256, 256, 224
SHUFFLE_BUFFER, SAMPLES_PER_SHARD = 1024, 1024
Delivered = tuple[torch.Tensor, torch.Tensor]
Epoch = Callable[[], Iterable[Delivered]]
"""Delivers the batches of a new epoch: images and labels."""
Payloads = list[tuple[bytes, int]]


def pixels(payload: bytes, kind: str) -> torch.Tensor:
    """A random crop, half of them mirrored: uint8 (224, 224, 3). The quickest of four ways tried with PIL and torch."""
    y, x = random.randrange(SIDE - CROP + 1), random.randrange(SIDE - CROP + 1)
    return cut(payload, kind, y, x, random.random() < 0.5)


def cut(payload: bytes | memoryview, kind: str, y: int, x: int, mirror: bool) -> torch.Tensor:
    """One crop of a payload; of raw bytes a view."""
    if kind == "raw":
        crop = torch.frombuffer(payload, dtype=torch.uint8).view(SIDE, SIDE, 3)[y : y + CROP, x : x + CROP]
    else:
        with Image.open(io.BytesIO(payload)) as image:
            crop = torch.from_numpy(np.asarray(image.crop((x, y, x + CROP, y + CROP))))
    return crop.flip(1) if mirror else crop


class ArrowShards(Dataset[tuple[torch.Tensor, int]]):
    """Tench's Arrow shards as any script would read them."""

    def __init__(self, folder: Path, kind: str) -> None:
        import pyarrow as pa

        files = sorted((folder / "arrow" / "dataset" / "train").glob("*.arrow"))
        tables = pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files])
        self._payloads, self._labels, self._kind = tables["payload"], tables["label"].to_pylist(), kind

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return pixels(self._payloads[number].as_buffer(), self._kind), self._labels[number]


def read_dataloader(folder: Path, kind: str) -> Epoch:
    """torch's DataLoader without workers over Tench's Arrow shards."""
    return _loaded(DataLoader(ArrowShards(folder, kind), BATCH, shuffle=True))


def read_decoded(folder: Path, kind: str) -> Epoch:
    """No loader: DALI's decoder, one thread, on whole JPEGs as they lie in memory, two batches under way."""
    from nvidia.dali import Pipeline, fn, types

    payloads = _payloads(folder)
    data = [np.frombuffer(payload, np.uint8) for payload, _ in payloads]
    labels = torch.tensor([label for _, label in payloads]).view(-1, BATCH)
    pipelines = []
    for _ in range(2):
        pipelines.append(Pipeline(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1))
        with pipelines[-1] as pipeline:
            read = fn.external_source(name="payload", dtype=types.UINT8, ndim=1, no_copy=True)
            pipeline.set_outputs(fn.decoders.image(read))
        pipeline.build()

    def epoch() -> Iterator[Delivered]:
        for number in range(len(labels) + 1):
            if number < len(labels):
                pipelines[number % 2].feed_input("payload", data[number * BATCH : (number + 1) * BATCH])
                pipelines[number % 2].schedule_run()
            if number > 0:
                (pixels,) = pipelines[(number - 1) % 2].outputs()
                yield torch.utils.dlpack.from_dlpack(pixels.as_tensor()), labels[number - 1]

    return epoch


def read_dali(folder: Path, kind: str) -> Epoch:
    """DALI's own TFRecord reader, choices and operators, one thread, over Tench's TFRecord shards."""
    from nvidia.dali import Pipeline, fn, tfrecord, types

    files = sorted(str(file) for file in (folder / "tfrecord" / "dataset" / "train").glob("*.tfrecord"))
    features = {
        "image/encoded": tfrecord.FixedLenFeature([], tfrecord.string, ""),
        "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
    }
    pipeline = Pipeline(batch_size=BATCH, num_threads=1, device_id=None)
    with pipeline:
        read: Any = fn.readers.tfrecord(
            path=files, index_path=[str(Path(f).with_suffix(".idx")) for f in files], features=features,
            random_shuffle=True, initial_fill=SHUFFLE_BUFFER, name="reader",
        )  # fmt: skip
        place = {f"crop_pos_{axis}": fn.random.uniform(range=[0.0, 1.0]) for axis in "xy"}
        mirror = fn.random.coin_flip(probability=0.5)
        if kind == "jpeg":
            crop = fn.decoders.image_crop(read["image/encoded"], crop=(CROP, CROP), **place)
            images = fn.flip(crop, horizontal=mirror)
        else:
            whole = fn.reshape(read["image/encoded"], shape=[SIDE, SIDE, 3], layout="HWC")
            images = fn.crop_mirror_normalize(
                whole, crop=(CROP, CROP), mirror=mirror, dtype=types.UINT8, output_layout="HWC", **place
            )
        pipeline.set_outputs(images, read["image/class/label"])
    pipeline.build()
    num_batches = pipeline.epoch_size("reader") // BATCH

    def epoch() -> Iterator[Delivered]:
        for _ in range(num_batches):
            delivered, labels = (torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in pipeline.run())
            yield delivered, labels[:, 0]

    return epoch


def write_streaming(payloads: Payloads, kind: str, out: Path) -> None:
    """MosaicML streaming's MDS."""
    with _streaming().MDSWriter(out=str(out), columns={"label": "int", "image": "bytes"}) as writer:
        for payload, label in payloads:
            writer.write({"label": label, "image": payload})


def read_streaming(out: Path, kind: str) -> Epoch:
    """Its StreamingDataset in a DataLoader without workers."""

    class Pictures(_streaming().StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(at)
            return pixels(sample["image"], kind), sample["label"]

    found = Pictures(local=str(out), shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
    return _loaded(DataLoader(found, BATCH))


def write_litdata(payloads: Payloads, kind: str, out: Path) -> None:
    """LitData's chunks."""
    from litdata.streaming import Cache

    cache = Cache(str(out), chunk_bytes="64MB")
    for number, (payload, label) in enumerate(payloads):
        cache[number] = {"label": label, "image": payload}
    cache.done()
    cache.merge()


def read_litdata(out: Path, kind: str) -> Epoch:
    """Its StreamingDataset in its StreamingDataLoader without workers."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Pictures(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(index)
            return pixels(sample["image"], kind), sample["label"]

    return _loaded(StreamingDataLoader(Pictures(str(out), shuffle=True), batch_size=BATCH, num_workers=0))


def write_webdataset(payloads: Payloads, kind: str, out: Path) -> None:
    """WebDataset's tar files."""
    import webdataset

    out.mkdir()
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=SAMPLES_PER_SHARD, verbose=0) as writer:
        for number, (payload, label) in enumerate(payloads):
            writer.write({"__key__": f"{number:08d}", "cls": label, kind: payload})


def read_webdataset(out: Path, kind: str) -> Epoch:
    """Shuffled shards and a shuffle buffer."""
    import webdataset

    def of(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        return pixels(sample[kind], kind), int(sample["cls"])

    urls = sorted(str(file) for file in out.glob("*.tar"))
    found = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(SHUFFLE_BUFFER)
    return _loaded(found.map(of).batched(BATCH, collation_fn=default_collate))


def write_grain(payloads: Payloads, kind: str, out: Path) -> None:
    """ArrayRecord, of which compression would take more CPU: the label, then the payload."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(out), "group_size:1,uncompressed")
    for payload, label in payloads:
        writer.write(struct.pack("<i", label) + payload)
    writer.close()


def read_grain(out: Path, kind: str) -> Epoch:
    """Grain's MapDataset over ArrayRecord: its own shuffle and random numbers, read by the consumer's thread."""
    import grain

    source = grain.sources.ArrayRecordDataSource([str(out)])
    seeds, places = iter(range(2**31)), SIDE - CROP + 1

    def of(record: bytes, generator: np.random.Generator) -> tuple[torch.Tensor, int]:
        # One number for all three choices: of arrays it draws slowly.
        mirror, place = divmod(int(generator.integers(2 * places**2)), places**2)
        return cut(memoryview(record)[4:], kind, *divmod(place, places), bool(mirror)), struct.unpack_from(
            "<i", record
        )[0]

    def epoch() -> Iterator[Delivered]:
        mixed = grain.MapDataset.source(source).seed(next(seeds)).shuffle().random_map(of)
        read = mixed.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        yield from read.batch(BATCH, batch_fn=default_collate)

    return epoch


def write_datasets(payloads: Payloads, kind: str, out: Path) -> None:
    """Hugging Face datasets: a table saved as Arrow files."""
    import datasets

    stored = datasets.Features({"image": datasets.Value("binary"), "label": datasets.Value("int32")})
    columns = dict(zip(stored, map(list, zip(*payloads, strict=True)), strict=True))
    datasets.Dataset.from_dict(columns, features=stored).save_to_disk(out)


def read_datasets(out: Path, kind: str) -> Epoch:
    """The table with a transform, in a DataLoader without workers."""
    import datasets

    def of(rows: dict[str, Any]) -> dict[str, Any]:
        return {"image": [pixels(payload, kind) for payload in rows["image"]], "label": rows["label"]}

    loader = DataLoader(datasets.load_from_disk(out).with_transform(of), BATCH, shuffle=True)
    return lambda: ((batch["image"], batch["label"]) for batch in loader)


def write_ffcv(payloads: Payloads, kind: str, out: Path) -> None:
    """FFCV's file. Its own encoder would store other JPEGs, so the stored ones are put in its place."""
    import ffcv.fields.rgb_image
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    class Stored:
        def __getitem__(self, number: int) -> tuple[np.ndarray[Any, Any], int]:
            payload, label = payloads[number]
            data = np.frombuffer(payload, np.uint8)
            if kind == "raw":
                return data.reshape(SIDE, SIDE, 3), label
            ffcv.fields.rgb_image.encode_jpeg = lambda *_: data
            return np.empty((SIDE, SIDE, 3), np.uint8), label

        def __len__(self) -> int:
            return len(payloads)

    columns = {"image": RGBImageField(write_mode="jpg" if kind == "jpeg" else "raw"), "label": IntField()}
    DatasetWriter(str(out), columns, num_workers=1).from_indexed_dataset(Stored())


def read_ffcv(out: Path, kind: str) -> Epoch:
    """Its Loader with one worker thread: random crops of a fixed size, which it resizes to the same size."""
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    decoder = RandomResizedCropRGBImageDecoder((CROP, CROP), scale=((CROP / SIDE) ** 2,) * 2, ratio=(1.0, 1.0))
    pipelines = {"image": [decoder, RandomHorizontalFlip(), ToTensor()], "label": [IntDecoder(), ToTensor()]}
    loader = Loader(str(out), BATCH, num_workers=1, order=OrderOption.RANDOM, pipelines=pipelines)
    return lambda: ((images, labels[:, 0]) for images, labels in loader)


def _loaded(loader: Iterable[Any]) -> Epoch:
    """Iterating it anew is another epoch."""
    return lambda: loader


class _LeftOut(MetaPathFinder, ModuleLoader):
    """Puts modules of empty classes in place of packages that need not be installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        packages = ("transformers", "torchvision")
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in packages else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return peer_writers.Unused(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """It has nothing to run."""


def _streaming() -> Any:
    """The package without what it imports for other data and for models."""
    finder = _LeftOut()
    sys.meta_path.insert(0, finder)
    import streaming

    sys.meta_path.remove(finder)
    return streaming


WRITERS: dict[str, Callable[[Payloads, str, Path], None]] = {
    "streaming": write_streaming, "litdata": write_litdata, "webdataset": write_webdataset,
    "grain": write_grain, "datasets": write_datasets, "ffcv": write_ffcv,
}  # fmt: skip
OVER_OURS = {"decode alone": read_decoded, "dataloader": read_dataloader, "dali": read_dali}
"""What needs no format of its own, run by Tench's Python."""
READERS: dict[str, Callable[[Path, str], Epoch]] = {
    "streaming": read_streaming, "litdata": read_litdata, "webdataset": read_webdataset,
    "grain": read_grain, "datasets": read_datasets, "ffcv": read_ffcv,
}  # fmt: skip
PACKAGES = (
    "torch", "nvidia-dali-cuda130", "pyarrow", "mosaicml-streaming", "litdata", "webdataset", "grain", "array-record",
    "datasets", "ffcv", "numba", "opencv-python-headless", "numpy", "pillow-simd", "pillow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """What this process runs on."""
    installed = {
        str(d.metadata["Name"]).lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()
    }
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return {**found, "PIL": PIL.__version__, "libjpeg_turbo": str(features.version("libjpeg_turbo"))}


def counted(batches: Iterable[Delivered], look: bool = False) -> dict[str, Any]:
    """What an epoch delivered: number, classes and form of its samples; to `look` also finds the channels' means."""
    classes: Counter[int] = Counter()
    forms, sums = set(), torch.zeros(3, dtype=torch.float64)
    for images, labels in batches:
        assert len(images) == len(labels)
        classes.update(labels.tolist())
        forms.add(f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape[1:])}")
        if look:
            sums += images.double().mean((1, 2)).sum(0)
    samples = classes.total()
    found = {"samples": samples, "classes": [classes[label] for label in sorted(classes)], "forms": sorted(forms)}
    return {**found, "channel_means": [round(v, 2) for v in (sums / samples).tolist()]} if look else found


def serve(epoch: Epoch) -> None:
    """Speak with the caller: an epoch to begin with, then as many as each of his lines asks for."""
    torch.set_num_threads(1)
    print(json.dumps({"versions": versions(), "found": counted(epoch(), look=True)}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"found": [counted(epoch()) for _ in range(int(line))]}), flush=True)


def _payloads(folder: Path) -> Payloads:
    data = memoryview((folder / "payloads.bin").read_bytes())
    return [
        (bytes(data[at : at + length]), label)
        for at, length, label in json.loads((folder / "samples.json").read_text())
    ]


def main(what: str, name: str, kind: str, folder: Path) -> None:
    """Write a peer's format, or serve its epochs."""
    # What torch warns of is never written to: memory that belongs to a bytes object.
    warnings.filterwarnings("ignore", message="The given (buffer|NumPy array) is not writable")
    if what == "write":
        WRITERS[name](_payloads(folder), kind, folder / name)
    elif name in OVER_OURS:
        serve(OVER_OURS[name](folder, kind))
    else:
        serve(READERS[name](folder / name, kind))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
