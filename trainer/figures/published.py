"""Errors that were published for AlexNet and its kin, in percent, digits as in the source.

Sources: the NIPS 2012 paper (tables 1 and 2, section 6); the logs in the Computer History Museum's release of the 2012
source, named by the number of the layer file (#145 is the published network); the read-me files of Caffe, torchvision
and cuda-convnet2. Caffe and torchvision publish accuracies: here 100 minus these.
"""

from typing import NamedTuple


class Error(NamedTuple):
    """One measured network. `views` of a test picture (1: the centre; None: not said); percent as text, "" if not given."""

    network: str
    views: int | None
    top1: str
    top5: str
    source: str
    top5_test: str = ""
    """Top-5 error on the 2012 test set, whose labels were never released."""


class Gain(NamedTuple):
    """What a part of the network is worth: points of error that are added without it, by the paper and by the logs."""

    part: str
    paper_top1: str
    paper_top5: str
    museum_top1: str
    museum_top5: str
    source: str


ILSVRC_2012 = (
    Error("SIFT + FVs", None, "", "", "paper, table 2", "26.2"),
    Error("1 CNN", 10, "40.7", "18.2", "paper, table 2"),
    Error("5 CNNs", 10, "38.1", "16.4", "paper, table 2", "16.4"),
    Error("1 CNN*", 10, "39.0", "16.6", "paper, table 2"),
    Error("7 CNNs*", 10, "36.7", "15.4", "paper, table 2", "15.3"),
    Error("#145 (1 CNN)", 10, "40.6640", "18.2100", "museum"),
    Error("#146-2012-2011 (1 CNN*)", 10, "38.9900", "16.6220", "museum"),
    Error("#170 (as #145, rates fall exponentially)", 10, "40.53", "18.05", "museum"),
    Error("#170", 1, "42.34", "19.58", "museum"),
    Error("example checkpoint", 10, "40.420", "18.150", "cuda-convnet2, wiki"),
    Error("example checkpoint", 1, "42.548", "19.810", "cuda-convnet2, wiki"),
    Error("bvlc_alexnet", 1, "42.9", "19.8", "Caffe, readme"),
    Error("CaffeNet", 1, "42.6", "19.6", "Caffe, readme"),
    Error("AlexNet of 2014, one column", 1, "43.478", "20.934", "torchvision"),
)
"""Validation errors, 50,000 pictures of 1,000 classes. *: pre-trained on all of Fall 2011."""

ILSVRC_2010 = (
    Error("Sparse coding", None, "47.1", "28.2", "paper, table 1"),
    Error("SIFT + FVs", None, "45.7", "25.7", "paper, table 1"),
    Error("CNN", 10, "37.5", "17.0", "paper, table 1"),
    Error("CNN", 1, "39.0", "18.3", "paper, section 4.1"),
    Error("#145", 10, "37.4727", "16.9987", "museum"),
    Error("#145", 1, "39.0247", "18.2953", "museum"),
    Error("#145-half (one column)", 10, "39.1680", "18.2287", "museum"),
)
"""Test errors, 150,000 pictures of 1,000 classes (others than those of 2012)."""

FALL_2009 = (
    Error("previous best", None, "78.1", "60.9", "paper, section 6"),
    Error("CNN with a sixth convolution", None, "67.4", "40.9", "paper, section 6"),
    Error("#131-2009", None, "69.42", "43.73", "museum"),
)
"""Half of 8.9 million pictures of 10,184 classes."""

GAINS = (
    Gain("Local response normalisation", "1.4", "1.2", "1.370", "1.152", "#148: 42.0340, 19.3620 on 2012; spatial too"),
    Gain("Pools that overlap", "0.4", "0.3", "0.394", "0.300", "#147: 41.0580, 18.5100 on 2012"),
    Gain("Two columns instead of a half", "1.7", "1.2", "1.695", "1.230", "#145-half: 39.1680, 18.2287 on 2010"),
    Gain("Exchange between the columns", "", "", "1.164", "1.120", "#150: 41.8280, 19.3300 on 2012"),
    Gain("Ten views instead of the centre", "1.5", "1.3", "1.5520", "1.2966", "#145 on 2010"),
)
