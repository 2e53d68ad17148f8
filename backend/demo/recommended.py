"""The labelling config that we recommend: every prompt works in it, and no button is dead."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000", "#000075")

_CONFIG = """<View>
  <Style>
    .prompt {{ max-width: 640px; }}
    .lsf-main-content.lsf-requesting .prompt::before {{ content: "segmenting ..."; color: #617ADA; }}
    .work {{ display: flex; gap: 16px; }}
    .photo {{ flex: 1 1 auto; min-width: 0; }}
    .labels {{ flex: 0 0 150px; }}
    .labels h6 {{ margin: 0 0 4px 0; }}
  </Style>
  <View className="prompt">
    <TextArea name="prompt" toName="image" rows="1" maxSubmissions="1" editable="true"
              placeholder="What to segment, then Enter: cup, not the saucer"/>
  </View>
  <View className="work">
    <View className="photo">
      <Image name="image" value="$image" zoom="true" zoomControl="true"/>
    </View>
    <View className="labels">
      <Header value="Click, Alt-click" size="6"/>
      <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
{labels}
      </KeyPointLabels>
      <Header value="Box" size="6"/>
      <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
{labels}
      </RectangleLabels>
      <Header value="Brush" size="6"/>
      <BrushLabels name="brush" toName="image" smart="false">
{labels}
      </BrushLabels>
      <Header value="Polygon" size="6"/>
      <PolygonLabels name="polygon" toName="image" smart="false">
{labels}
      </PolygonLabels>
    </View>
  </View>
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
