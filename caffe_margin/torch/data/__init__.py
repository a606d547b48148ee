"""Data layers: what feeds a net, batch by batch, with Caffe's own pixels and Caffe's own draws.

`sources` makes a source from a layer's message. OpenCV, LMDB, LevelDB and h5py are imported where
a source is opened that needs them, so that a net without one needs none.
"""
