"""The table of data sets. Nothing heavy is imported before a split is opened.

A new data set is a module with an options model (``data.config.DataOptions``) and a line in ``DATASETS``.
"""

from __future__ import annotations

from rdd_deploy.utils.tables import Entry

DATASETS = {
    "camvid": Entry("rdd_deploy.data.camvid:CamvidOptions"),
    "cityscapes": Entry("rdd_deploy.data.cityscapes:CityscapesOptions"),
    "voc": Entry("rdd_deploy.data.voc:VocOptions"),
    "ade20k": Entry("rdd_deploy.data.ade20k:Ade20kOptions"),
    "folder": Entry("rdd_deploy.data.folder.config:FolderOptions"),
    "streets": Entry("rdd_deploy.data.streets.config:StreetsOptions"),
}
