#!/bin/sh
# The paper's claims, tested. Each line below is a study: every method in the published code's mixed fleet, and plain training
# with memory techniques beside them, at learning rates tuned on the same kind of data (split Dirichlet). What is done is not
# repeated, and what was begun goes on.
#
#     sh results/claims/run.sh                                              the digits
#     sh results/claims/run.sh digits-iid                                   one of them
#     PICTURES=~/cifar10 sh results/claims/run.sh pictures-dirichlet        a folder of train/<class> and test/<class>
set -e
only=$1
pictures=$(realpath "${PICTURES:-.}")
cd "$(dirname "$0")/../.."
known=

# study NAME PARTITION METHODS [TECHNIQUES]: the last two say which configuration has them, by words of the command
study() {
    known="$known $1"
    if [ "$only" = "$1" ] || { [ -z "$only" ] && [ "$1" != "${1#digits}" ]; }; then
        for chosen in "$3" ${4:+"$4"}; do
            case $1 in
                pictures*) profl sweep $chosen --partition "$2" --output "results/claims/$1" --data "$pictures" ;;
                *) profl sweep $chosen --partition "$2" --output "results/claims/$1" ;;
            esac
        done
    fi
}

digits="--preset claims"
digits_techniques="--preset claims-techniques"
on_pictures="--config results/claims/pictures.toml"
on_pictures_techniques="$on_pictures --method exclusive --technique checkpoint --technique micro-batch:4"

study digits-dirichlet   dirichlet:1.0 "$digits"      "$digits_techniques"
study digits-iid         iid           "$digits"      "$digits_techniques"
study pictures-dirichlet dirichlet:1.0 "$on_pictures" "$on_pictures_techniques"
study pictures-iid       iid           "$on_pictures" "$on_pictures_techniques"
study pictures-longer    dirichlet:1.0 "$on_pictures --method profl --method exclusive --rounds 360"
study pictures-no-shrinking dirichlet:1.0 "$on_pictures --method profl --option profl.shrinking=false"

case "${only:+$known }" in
    "" | *" $only "*) ;;
    *)
        echo "there is no study '$only': choose one of$known" >&2
        exit 2
        ;;
esac
