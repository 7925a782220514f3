"""Write the label configs of earlier releases, to recognize them in existing projects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import inf

from backend.labelstudio.choice_tags import choice_tags

ONE_COLUMN = 20
HINT = '\n    <Header value="$hint" style="margin: 8px 0; font-size: 14px; line-height: 20px"/>'


def former_label_configs(classes: Sequence[str]) -> Iterator[str]:
    """Yield the label configs that earlier releases wrote for these classes.

    In the first releases, the image was not smoothed and the choices were not in columns.
    """
    for hint, smoothing, columns_above in product(("", HINT), ("true", "false"), (ONE_COLUMN, inf)):
        style, columns = "", ""
        if len(classes) > columns_above:
            style = (
                "\n  <Style>.lsf-choice { break-inside: avoid; overflow-wrap: anywhere }</Style>"
            )
            columns = "; columns: 160px; column-fill: auto; max-height: 600px"
        yield f"""<View style="display: flex; gap: 32px; align-items: flex-start">{style}
  <View style="flex: 0 0 400px">
    <Image name="image" value="$image" smoothing="{smoothing}" width="400px" maxWidth="400px" \
maxHeight="400px" zoom="false" zoomControl="false" rotateControl="false"/>{hint}
  </View>
  <View style="flex: 1{columns}">
    <Choices name="label" toName="image" choice="single-radio" required="true" showInline="false">
{choice_tags(classes)}
    </Choices>
  </View>
</View>
"""
