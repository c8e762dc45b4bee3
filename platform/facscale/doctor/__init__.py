"""What stands between a job and a cluster, found before GPUs are held: `facscale doctor`."""

from facscale.doctor.examination import examine
from facscale.doctor.finding import Finding
from facscale.doctor.patient import Patient

__all__ = ["Finding", "Patient", "examine"]
