"""The table of annotation tools' exports that ``rdd-deploy data import`` reads. Nothing heavy is imported before one is
read.

A new format is a module with a ``Format`` (``data.imports.export``) and a line here.
"""

from __future__ import annotations

from rdd_deploy.utils.tables import Entry

FORMATS = {
    "cityscapes": Entry("rdd_deploy.data.imports.cityscapes:FORMAT"),
    "coco": Entry("rdd_deploy.data.imports.coco:FORMAT"),
    "coco-panoptic": Entry("rdd_deploy.data.imports.panoptic:FORMAT"),
    "cvat": Entry("rdd_deploy.data.imports.cvat:FORMAT"),
    "label-studio": Entry("rdd_deploy.data.imports.label_studio:FORMAT"),
    "labelme": Entry("rdd_deploy.data.imports.labelme:FORMAT"),
    "parquet": Entry("rdd_deploy.data.imports.parquet:FORMAT"),
    "roboflow-masks": Entry("rdd_deploy.data.imports.roboflow:FORMAT"),
    "supervisely": Entry("rdd_deploy.data.imports.supervisely:FORMAT"),
    "voc": Entry("rdd_deploy.data.imports.voc:FORMAT"),
    "yolo": Entry("rdd_deploy.data.imports.yolo:FORMAT"),
}
