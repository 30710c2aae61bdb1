#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A long context split over MPI ranks, at several sizes: what `make demo-mpi` and the test mpi_split_context run.
#
#   tools/mpi/run.sh [build folder]      RANKS: 4 unless set; MPIEXEC: mpirun unless set
#
# Status 1: a merged result does not have the bits of one call.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
program=${1:-$root/build}/tools/mha_split_context
mpiexec=${MPIEXEC:-mpirun}

# More ranks than CPUs, and a container's root: Open MPI wants to be told that both are meant.
options=
if "$mpiexec" --version 2>&1 | grep -qi 'open.\{0,1\}mpi\|open-mpi\|openrte'; then
  options='--oversubscribe --bind-to none'
  [ "$(id -u)" -ne 0 ] || options="$options --allow-run-as-root"
  # One rank reading another's memory is forbidden in most containers; without it Open MPI copies, and does not warn.
  export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_btl_smsc_single_copy_mechanism=none
fi

# Decoding one token, a prompt's last tokens (causal), a context whose last rank has a partial chunk, fewer chunks than
# ranks.
for sizes in '--tokens 40000' '--tokens 8192 --queries 64' '--tokens 10001 --queries 5' '--tokens 300 --queries 300'; do
  # shellcheck disable=SC2086 # lists of options
  "$mpiexec" -n "${RANKS:-4}" $options "$program" $sizes
done
