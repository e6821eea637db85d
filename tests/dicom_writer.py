"""DICOM files as the tests make them, in memory."""

import io

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian


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


def dicom(image, **elements):
    """A DICOM file of uint8 [H, W]."""
    dataset = started(ComputedRadiographyImageStorage)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, 'MONOCHROME2'
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = image.tobytes() + b'\0' * (image.size % 2)
    return written(dataset, **elements)
