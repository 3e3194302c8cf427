#!/bin/bash
# A night on a Slurm cluster: this job is the driver, and sends jobs for the workers after itself.
#
#   sbatch workflows/slurm.sh                         # once, now
#   30 2 * * * sbatch --quiet ~/lrh/slurm.sh          # every night: `scrontab -e` or `crontab -e`
#
# ~/lrh, on a disk that all nodes see, holds .venv (with lrh_dask[jobqueue]) and nightly.yaml: that of
# configs/ with the `cluster:` of configs/slurm.yaml.
#
# Exit codes: 0 is COMPLETED: done, or nothing was new. All others are FAILED, and Slurm writes a
# mail: 5 published, with alerts; 2 settings; 3 pairs; 4 cluster or machine. 75 does not come:
# with --wait a second run waits for the first, within its time. Nothing is tried again but for a
# node that dies: the next night catches up.
#
#SBATCH --job-name=lrh-nightly
#SBATCH --dependency=singleton
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --mail-type=FAIL,TIME_LIMIT
#SBATCH --output=lrh-nightly-%j.out
# Two minutes before its time is up the driver is told, as by Ctrl-C, and takes its workers' jobs back.
#SBATCH --signal=B:INT@120

cd "${LRH_HOME:-$HOME/lrh}" || exit 2
exec .venv/bin/lrh nightly --wait nightly.yaml
