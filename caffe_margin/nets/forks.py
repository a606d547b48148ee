"""Layer types of well-known forks, which BVLC's Caffe lacks, and whose they are."""

FORKS = {
    "BN": "the SegNet and PSPNet forks",
    "CenterLoss": "caffe-face",
    "Permute": "the SSD forks",
    "ROIPooling": "Fast R-CNN",
}
