"""The sentences of the learning benchmark's page that hold whatever it measures."""

from __future__ import annotations

INTRODUCTION = """\
# Learning from few labels: what RISE and its parts bring

Written by `rise bench learning OUT --docs docs/results`, which makes the data, trains and evaluates; rerun it
to resume after a kill; several processes may share one folder. Rows that are here already stay until they are
measured again.

- Machine: {machines}. Dates: {dates}.
- Data: the tote world (`rise scenes stills --train 500 --val 0 --test 200 --views 4 --seed 7 --size
  160x120`). The seed draws the labelled images, each of another scene as long as there are any; the other
  views of a labelled scene are left out. Test scenes are others again.
- COCO AP of the objects (no containers) on the test images, guesses from a score of 0.02 on.
- `none`: Hungarian matching, no pasting, nothing unlabelled. `supervised`: the same with optimal
  transport; it is trained for a fifth, half and all of the steps, and the length with the best mean AP on
  the test images counts, which favours it. `ps_ot`: pseudo-sequences and optimal transport, labelled
  images alone. `rise`: all parts. At 100 % nothing is unlabelled.
- "±" is the sample standard deviation over the seeds, n their number. Differences are paired by the seed;
  in brackets is the 95 % interval of their mean (Student's t). Where it holds zero the page says tie.
- Configurations: rows of `config/bench/learning.yaml`. All results, with seconds:
  [learning.json](learning.json).
"""
PAPER = """\
AP in points. The paper's figures are of ARMBench mix-object-tote (Table 1, Table 3): 2448x2048 pixels in
colour, 309 labelled and 30,683 unlabelled images at 1 %, networks that start from COCO, 12,000 steps; its
peer is Deformable DETR alone, which is `none` here. Here are 5 labelled and 480 unlabelled simulated
images of 160x120 pixels at 1 %, a small network that starts at random, and the steps that the tables
name.
"""
SECTIONS = {
    "parts": """\
## The parts (Table 3)

Cumulative, at 1 % of the labels, with depth: no part; pseudo-sequences (PS); optimal transport (OT);
unlabelled images with plain pseudo-labels (L_u); Mask-to-Box (M2B); Multi-Label Matching (MLM), which is
RISE. The paper's Table 3 (ResNet-101, all labels, AP): none 53.80, PS 73.85, OT alone 62.92, PS+OT 74.16,
+M2B 74.35, +MLM 74.47.
""",
    "filters": """\
## The filters (Table 4)

How pseudo-labels are chosen, at 1 % of the labels, with depth; `policy` is learned on labelled images in
disguise (`rise_perception/selection`) and not of the paper. The paper's Table 4 (ResNet-101, all
labels, AP): cascade 74.47, reversed 73.0, threshold 72.91, quantile 72.59.
""",
    "variants": """\
## Variants

`rise` with one change each, at 1 % of the labels, with depth.
""",
    "models": """\
## Another model

The same with `architecture: mask_rcnn`, at 1 % of the labels.
""",
    "shelf": """\
## Real pixels

One, three and five labelled frames of eight views of a shelf bin with four items (apc_shelf), beside the
other views as unlabelled ones, in colour. Measured on those other views, whose labels no training reads;
the masks were rendered from poses and are off by up to 20 pixels of 640.
""",
}
EARLIER = """\
## Earlier results: {steps} steps

From before x3 had a geometry and a depth map of its own, with a quantile that lay between two scores, and
with other views of labelled scenes among the unlabelled images. Each piece had 4 labelled views a step,
and 4 unlabelled ones where a method uses them.
"""
