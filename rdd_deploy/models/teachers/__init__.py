"""Teachers by the names that ``teacher.source`` gives them; torch is imported when one is loaded.

A teacher from elsewhere is a file here with a loader like ``checkpoint.load``, and a line in ``TEACHERS``.
"""

from __future__ import annotations

from rdd_deploy.utils.tables import Entry

TEACHERS = {"segmenter": Entry("rdd_deploy.models.teachers.checkpoint:load")}
