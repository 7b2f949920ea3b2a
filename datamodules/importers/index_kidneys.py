"""A source whose volumes are those of the index kidney alone, for encoders that no stage of the suite trains."""

from __future__ import annotations

from dataclasses import dataclass, replace

from datamodules.importers.records import PatientRecord, SourceOver
from datamodules.volumes.contract import PreprocessingContract


@dataclass(frozen=True)
class IndexKidneys(SourceOver):
    """The patients of another source, with the volumes that downstream tasks read: those of the index kidney.

    The tables are unchanged, so the cohort that it builds, or adds a volume set to, is the same. The grid of a
    published encoder may hold fifty times the voxels of ours; half of them would never be read.

    Args:
        source: The source.
    """

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """One patient, without the volumes and masks of kidneys that are not the index.

        Of a patient without any index kidney everything is kept.

        Raises:
            SkipPatient: as the source.
            DataError: as the source.
        """
        record = self.source.load(patient_id, contract)
        index = {(row["study_id"], row["side"]) for row in record.rows["kidneys"] if row["is_index"]}
        if not index:
            return record
        return replace(
            record,
            volumes=tuple(volume for volume in record.volumes if (volume.study_id, volume.side) in index),
            masks=tuple(mask for mask in record.masks if (mask.study_id, mask.side) in index),
        )
