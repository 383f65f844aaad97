"""Networks. ``HEADS`` names the decode heads that a recipe can choose; torch is imported when one is made.

A new head is a class like those in ``heads`` and a line here.
"""

from __future__ import annotations

from rdd_deploy.utils.tables import Entry

HEADS = {
    "lraspp": Entry("rdd_deploy.models.heads:LRASPP"),
    "lraspp_detail": Entry("rdd_deploy.models.detail_heads:LRASPPDetail"),
    "lraspp_refine": Entry("rdd_deploy.models.detail_heads:LRASPPRefine"),
    "lraspp_fpn": Entry("rdd_deploy.models.detail_heads:LRASPPFeaturePyramid"),
    "deeplabv3": Entry("rdd_deploy.models.heads:DeepLabV3"),
    "deeplabv3plus": Entry("rdd_deploy.models.heads:DeepLabV3Plus"),
    "pspnet": Entry("rdd_deploy.models.heads:PSPNet"),
}
