"""``maskloom segment``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.terminal import say


def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    text: Annotated[list[str] | None, typer.Option(help='What to find: "cat, dog, not the toy".')] = None,
    point: Annotated[list[str] | None, typer.Option(help="A click x,y in pixels.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="A click x,y on what does not belong.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="A box x0,y0,x1,y1 in pixels.")] = None,
    polygon: Annotated[list[str] | None, typer.Option(help="A rough outline x,y,x,y,...")] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask image of the object to refine.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Another image that shows such a thing ...")] = None,
    reference_mask: Annotated[Path | None, typer.Option(help="... and a mask image of where.")] = None,
    out: Annotated[Path, typer.Option(help="The picture with the masks over it.")] = Path("masks.png"),
    json: Annotated[Path | None, typer.Option(help="The masks as COCO RLE with labels and scores.")] = None,
) -> None:
    """Segment one photo and write the masks, without Label Studio."""
    from backend.assemble import EngineHandle, image_files
    from backend.engines.catalogue import find_engine
    from backend.photo import PhotoPrompts, segment_photo
    from backend.values.settings import Settings

    settings = Settings()
    prompts = PhotoPrompts(
        texts=tuple(text or ()),
        points=tuple(point or ()),
        negative_points=tuple(negative_point or ()),
        boxes=tuple(box or ()),
        polygons=tuple(polygon or ()),
        mask=mask,
        reference=reference,
        reference_mask=reference_mask,
    )
    segmenter = EngineHandle(find_engine(settings.engine), settings).segmenter()
    answer = segment_photo(photo, prompts, image_files(settings), segmenter)
    answer.write_overlay(out)
    if json is not None:
        answer.write_json(json)
    for region in answer.masks:
        print(f"{region.label or 'object'}  score {region.score:.2f}  {int(region.mask.sum())} pixels")
    if not len(answer.masks):
        print("nothing found")
    say(f"wrote {out}" + (f" and {json}" if json else ""))
