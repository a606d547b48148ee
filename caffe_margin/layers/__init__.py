"""Caffe's layers: blobs in, blobs out, or plain arrays in and out."""
