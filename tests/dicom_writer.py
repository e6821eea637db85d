"""DICOM files as the tests make them, in memory."""

import io

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def started(uid, syntax=ExplicitVRLittleEndian):
    """A dataset of the SOP class `uid` with its file meta, and nothing else yet."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = uid
    meta.MediaStorageSOPInstanceUID = '1.2.3'
    return FileDataset(None, {}, file_meta=meta, preamble=b'\0' * 128)


def written(dataset, **elements):
    """The bytes of its file, `elements` set before."""
    for key, value in elements.items():
        setattr(dataset, key, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
