"""Layer types that are known as some fork's alone, and have no rule here, and whose they are."""

from __future__ import annotations

_OF_FORKS = {
    "SSD": ("AnnotatedData DetectionEvaluate DetectionOutput MultiBoxLoss PriorBox SmoothL1Loss"),
    "Faster R-CNN": "ROIPooling",
    "R-FCN": "BoxAnnotatorOHEM PSROIPooling SoftmaxWithLossOHEM SmoothL1LossOHEM",
    "SegNet": "DenseImageData Upsample",
    "DeepLab and PSPNet": "Interp",
    "DeepLab": "DenseCRF ImageSegData SegAccuracy",
    "C3D": (
        "CONVOLUTION3D Convolution3D NdConvolution NdPooling POOLING3D Pooling3D VIDEO_DATA "
        "VideoData"
    ),
    "FlowNet": "ChannelNorm Correlation DataAugmentation Downsample FlowWarp L1Loss Resample",
    "OpenPose": "CPMData ImResize Nms",
    "caffe-face": "CenterLoss",
    "NormFace": "FlatNormalize",
    "AM-Softmax": "LabelSpecificAdd",
    "SphereFace+": "InterClass",
    "MobileNet's forks": "ReLU6",
    "ShuffleNet's forks": "ShuffleChannel",
    "SENet": "Axpy",
    "MobileNet-YOLO": "Region RegionLoss YoloDetectionOutput Yolov3 Yolov3DetectionOutput",
    "NVIDIA's Caffe": "DetectNetTransformation",
    "triplet-loss forks": "TripletLoss",
    "spatial-transformer forks": "SpatialTransformer",
}

FORKS = {type_: whose for whose, types in _OF_FORKS.items() for type_ in types.split()}
"""Layer type -> whose it is. Spelt right, so no other name is to be suggested for it."""
