#!/bin/sh
# The paper's claims, tested. Each line below is a study: every method in the published code's mixed fleet, and plain training
# with memory techniques beside them, at learning rates tuned on digits (Dirichlet). What is done is not repeated, and what was begun goes on.
#
#     sh results/claims/run.sh                                              the digits
#     sh results/claims/run.sh digits-iid                                   one of them
#     PICTURES=~/cifar10 sh results/claims/run.sh pictures-dirichlet        a folder of train/<class> and test/<class>
#
# Rates of digits do not suit pictures (docs/studies.md): tune them first, and give them in a copy of the preset.
set -e
only=$1
pictures=$(realpath "${PICTURES:-.}")
cd "$(dirname "$0")/../.."
known=

study() {
    name=$1
    known="$known $name"
    shift
    if [ "$only" = "$name" ] || { [ -z "$only" ] && [ "$name" != "${name#digits}" ]; }; then
        profl sweep --preset claims --output "results/claims/$name" "$@"
        profl sweep --preset claims-techniques --output "results/claims/$name" "$@"
    fi
}

study digits-dirichlet      --partition dirichlet:1.0
study digits-iid            --partition iid
study pictures-dirichlet    --partition dirichlet:1.0 --dataset imagefolder --data "$pictures"
study pictures-iid          --partition iid --dataset imagefolder --data "$pictures"

case "${only:+$known }" in
    "" | *" $only "*) ;;
    *)
        echo "there is no study '$only': choose one of$known" >&2
        exit 2
        ;;
esac
