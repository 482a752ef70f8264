"""Write the embedded data set: real handwritten digits in real photographs.

scikit-learn ships 1,797 scanned digits (``load_digits``, 8x8) and two photographs
(``load_sample_images``, 427x640), so nothing is downloaded. Written are

    data/digits/classification/{train,val}/<digit>/NNNNN.png  64x64, one digit each
    data/digits/scenes/{train,val}/NNNNN.png                  128x128, 1 to 6 digits
    data/digits/labels/{train,val}/NNNNN.png                  0 background, digit + 1
    data/digits/annotations/instances_{train,val}.json        COCO, masks as RLE
    data/digits/relations/scenes/{train,val}/NNNNN.png        112x32, key and 2 digits
    data/digits/relations/labels/{train,val}/NNNNN.png        0, 1 a digit, 2 the named
    data/digits/annotations/relations_{train,val}.txt         picture and its class
    data/digits/annotations/relations_{train,val}.json        what each of them shows
    data/digits/manifest.json                       recipe, statistics, digest, files

The relations are scenes in which a framed digit names another one by its ink
(:mod:`setformer_mm.data.relations`). Train and val share no digit image and no part of
a photograph. The same arguments and library versions give the same bytes. The folder
appears in one rename once it is complete; a later run checks its digest and leaves it
alone. It replaces a folder only if that has its manifest, all files of that and nothing
else.
"""

import argparse
import fcntl
import hashlib
import json
import zlib
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/digits"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-scenes", type=int, default=3000)
    parser.add_argument("--val-scenes", type=int, default=300)
    parser.add_argument("--train-crops", type=int, default=10000)
    parser.add_argument("--val-crops", type=int, default=1000)
    parser.add_argument("--train-relations", type=int, default=10000)
    parser.add_argument("--val-relations", type=int, default=1000)
    parser.add_argument("--force", action="store_true", help="rebuild what is there")
    parser.add_argument("--preview", type=Path, metavar="PNG", help="draw some scenes")
    args = parser.parse_args(argv)
    from setformer_mm.data.relations import NUM_CLASSES
    from toolkit.pictures import SUFFIXES

    if min(args.train_crops, args.val_crops) < 10:
        parser.error("--train-crops and --val-crops must be at least 10, one a class")
    if min(args.train_relations, args.val_relations) < NUM_CLASSES:
        parser.error(
            "--train-relations and --val-relations must be at least "
            f"{NUM_CLASSES}, one a class"
        )
    if min(args.train_scenes, args.val_scenes) < 1:
        parser.error("--train-scenes and --val-scenes must be at least 1")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    if args.preview and args.preview.suffix.lower() not in SUFFIXES:
        parser.error(f"--preview names a picture, as a.png, got {args.preview}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import numpy as np
import PIL
import sklearn
from PIL import Image
from tqdm import tqdm

from setformer_mm.data.digits import SPLITS, load_sources
from setformer_mm.data.relations import relational_scenes
from toolkit.digit_scenes import (
    MAX_DIGITS,
    SCENE_HEIGHTS,
    SCENE_SIZE,
    compose,
    draw_preview,
    instance_annotation,
)
from toolkit.folders import replace_folder, require_replaceable
from toolkit.launch import run_tool
from toolkit.outputs import require_writable_file, require_writable_folder
from toolkit.pictures import save_picture

GENERATOR_VERSION = 3  # raise it with every change of what is written
CROP_SIZE, CROP_HEIGHTS = 64, (24, 56)  # pixels
SCENE_KINDS = ("scenes", "labels")  # pictures of a scene


def save_png(array: np.ndarray, path: Path) -> None:
    """Write an image; run lengths are quick and suit photographs and label maps."""
    image = Image.fromarray(array.astype(np.uint8))
    image.save(path, compress_level=1, compress_type=zlib.Z_RLE)


def save_json(value: dict | list, path: Path) -> None:
    """Write JSON whose bytes depend on nothing but the value."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    path.write_text(text, encoding="utf-8")


def write_crops(root: Path, split: str, count: int, seed: int) -> None:
    """Write ``count`` crops of one digit, the classes in turn."""
    sources = load_sources(split)
    folders = [root / "classification" / split / str(label) for label in range(10)]
    for folder in folders:
        folder.mkdir(parents=True)
    for index in tqdm(range(count), f"{split} crops", unit="image", mininterval=1):
        # One generator an image: a larger data set begins like a smaller one.
        rng = np.random.default_rng([seed, SPLITS.index(split), 0, index])
        label = index % 10
        crop = compose(sources, CROP_SIZE, CROP_HEIGHTS, [label], rng)
        save_png(crop.image, folders[label] / f"{index:05d}.png")


def write_scenes(root: Path, split: str, count: int, seed: int) -> Counter:
    """Write scenes, label maps and annotations; count the scenes by their digits."""
    sources = load_sources(split)
    scenes, labels = (root / kind / split for kind in SCENE_KINDS)
    for folder in (scenes, labels, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations, scenes_by_digits = [], [], Counter()
    for index in tqdm(range(count), f"{split} scenes", unit="image", mininterval=1):
        rng = np.random.default_rng([seed, SPLITS.index(split), 1, index])
        wanted = rng.integers(10, size=rng.integers(1, MAX_DIGITS + 1)).tolist()
        scene = compose(sources, SCENE_SIZE, SCENE_HEIGHTS, wanted, rng)
        scenes_by_digits[len(scene.labels)] += 1
        name, image_id = f"{index:05d}.png", index + 1
        save_png(scene.image, scenes / name)
        # Owner -1 picks the last entry of the table: background.
        save_png(np.array([*scene.labels, -1])[scene.owner] + 1, labels / name)
        size = dict(width=SCENE_SIZE, height=SCENE_SIZE)
        images.append(dict(id=image_id, file_name=name, **size))
        for instance, label in enumerate(scene.labels):
            annotation = instance_annotation(scene.owner == instance, label)
            annotation.update(id=len(annotations) + 1, image_id=image_id)
            annotations.append(annotation)
    save_json(
        dict(
            info=dict(description="handwritten digits in photographs"),
            images=images,
            annotations=annotations,
            categories=[dict(id=digit + 1, name=str(digit)) for digit in range(10)],
        ),
        root / "annotations" / f"instances_{split}.json",
    )
    return scenes_by_digits


def write_relations(root: Path, split: str, count: int, seed: int) -> None:
    """Write relational scenes, their label maps, and what they show in two files."""
    scenes, labels = (
        root / "relations" / kind / split for kind in ("scenes", "labels")
    )
    for folder in (scenes, labels):
        folder.mkdir(parents=True)
    lines, layouts = [], []
    drawn = relational_scenes(split, count, seed)
    drawn = tqdm(drawn, f"{split} relations", count, unit="image", mininterval=1)
    for index, scene in enumerate(drawn):
        name = f"{index:05d}.png"
        save_png(scene.image, scenes / name)
        save_png(scene.label_map, labels / name)
        lines.append(f"{name} {scene.layout.label}\n")
        layouts.append(dict(file_name=name, **asdict(scene.layout)))
    path = root / "annotations" / f"relations_{split}"
    path.with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
    save_json(layouts, path.with_suffix(".json"))


def digest(root: Path) -> str:
    """Hash the names and bytes of all files but the manifest."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.png")) + sorted(root.glob("annotations/*")):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def read_manifest(root: Path) -> dict | None:
    """The manifest of a folder, None if it has none of ours."""
    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        manifest["recipe"], manifest["digest"], manifest["scenes_by_digits"]
        if "files" in manifest:
            manifest["files"] = set(map(Path, manifest["files"]))
        else:
            manifest["files"] = files_before_lists(manifest["recipe"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return manifest


def files_before_lists(recipe: dict) -> set[Path]:
    """What a recipe made when manifests did not list it yet."""
    files = {Path("manifest.json")}
    for split in SPLITS:
        files.add(Path("annotations", f"instances_{split}.json"))
        for index in range(recipe["scenes"][split]):
            files |= {Path(kind, split, f"{index:05d}.png") for kind in SCENE_KINDS}
        for index in range(recipe["crops"][split]):
            crops = Path("classification", split, str(index % 10))
            files.add(crops / f"{index:05d}.png")
    return files


def is_current(root: Path, recipe: dict) -> bool:
    """Whether ``root`` holds what this recipe makes, undamaged."""
    manifest = read_manifest(root)
    if manifest is None:
        return False
    return manifest["recipe"] == recipe and manifest["digest"] == digest(root)


def require_ours(root: Path) -> None:
    """Check that ``root`` may be replaced: it is of this tool's making alone."""
    manifest = read_manifest(root)
    require_replaceable(root, manifest and manifest["files"])


def write_all(root: Path, recipe: dict) -> None:
    """Write all files of a recipe."""
    scenes_by_digits = {}
    for split in SPLITS:
        write_crops(root, split, recipe["crops"][split], recipe["seed"])
        counts = write_scenes(root, split, recipe["scenes"][split], recipe["seed"])
        scenes_by_digits[split] = dict(sorted(counts.items()))
        write_relations(root, split, recipe["relations"][split], recipe["seed"])
    files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    manifest = dict(
        recipe=recipe,
        scenes_by_digits=scenes_by_digits,
        digest=digest(root),
        files=sorted(path.as_posix() for path in [*files, Path("manifest.json")]),
    )
    save_json(manifest, root / "manifest.json")


def main(argv: list[str] | None = None) -> None:
    """Bring the data set up to date and say where it is."""
    args = parse_args(argv)
    out = args.out.resolve()
    versions = dict(numpy=np.__version__, pillow=PIL.__version__)
    recipe = dict(
        generator=GENERATOR_VERSION,
        seed=args.seed,
        scenes=dict(train=args.train_scenes, val=args.val_scenes),
        crops=dict(train=args.train_crops, val=args.val_crops),
        relations=dict(train=args.train_relations, val=args.val_relations),
        libraries=versions | dict(sklearn=sklearn.__version__),
    )
    require_writable_folder(out, "--out")
    if args.preview:
        require_writable_file(args.preview, "--preview")
    out.parent.mkdir(parents=True, exist_ok=True)
    # The kernel takes the lock back when the process ends, however it ends.
    with out.with_name(f".{out.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        up_to_date = not args.force and is_current(out, recipe)
        if not up_to_date:
            write = partial(write_all, recipe=recipe)
            replace_folder(out, write, require=partial(require_ours, out))
    if args.preview:
        save_picture(np.asarray(draw_preview(out)), args.preview)
    kinds = ("crops", "scenes", "relations")
    crops, scenes, relations = (sum(recipe[kind].values()) for kind in kinds)
    verb = "Up to date" if up_to_date else "Written"
    print(
        f"{verb}: {crops} classification crops, {scenes} scenes and {relations} "
        f"relational scenes in {out}"
    )


if __name__ == "__main__":
    run_tool(main)
