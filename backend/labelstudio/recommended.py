"""The labelling config that we recommend: every prompt works in it, and no button is dead."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000", "#000075")

_CONFIG = """<View>
  <Style>
    .prompt {{ max-width: 640px; }}
    .lsf-main-content.lsf-requesting .prompt::before {{ content: "segmenting ..."; color: #617ADA; }}
  </Style>
  <View className="prompt">
    <TextArea name="prompt" toName="image" rows="1" maxSubmissions="1" editable="true"
              placeholder="What to segment, then Enter: cup, not the saucer"/>
  </View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <Header value="Brush: the masks" size="6"/>
  <BrushLabels name="brush" toName="image" smart="false">
{labels}
  </BrushLabels>
  <Header value="Click on it (Alt + click: not this)" size="6"/>
  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
{labels}
  </KeyPointLabels>
  <Header value="Box around it" size="6"/>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
{labels}
  </RectangleLabels>
  <Header value="Polygon" size="6"/>
  <PolygonLabels name="polygon" toName="image" smart="false">
{labels}
  </PolygonLabels>
</View>
"""


def recommended_config(labels: Sequence[str]) -> str:
    """Label Studio's XML for a project that segments images into these labels.

    Brushes hold the masks, smart key points and smart rectangles prompt with a click or a box, the text box prompts with words,
    and polygons are drawn by hand.
    """
    lines = (
        f'    <Label value={quoteattr(label)} background="{COLOURS[i % len(COLOURS)]}"/>' for i, label in enumerate(labels)
    )
    return _CONFIG.format(labels="\n".join(lines))
