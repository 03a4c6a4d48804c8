#!/bin/sh
# The ablations of ProFL. Each line below is one sweep: the preset 'ablation' with these options of ProFL, into the
# folder of its name. What is done is not repeated, and what was begun goes on.
#
#     sh results/ablations/run.sh            all of them: hours
#     sh results/ablations/run.sh warm-up    one
set -e
cd "$(dirname "$0")/../.."
only=$1
known=

ablation() {
    name=$1
    known="$known $name"
    shift
    if [ -z "$only" ] || [ "$only" = "$name" ]; then
        for option; do
            shift
            set -- "$@" --option "profl.$option"
        done
        profl sweep --preset ablation --output "results/ablations/$name" "$@"
    fi
}

# Shrinking: as published, left out, and with what might help it.
ablation published
ablation no-shrinking           shrinking=false
ablation map-rate               map_learning_rate=1e-2
ablation map-rate-and-rounds    map_learning_rate=1e-2 shrink_min_rounds=12 map_min_rounds=12
ablation shrinking-normalised   stand_in=normalised map_learning_rate=1e-2

# The rest without shrinking, which would cost them rounds: compare with no-shrinking.
ablation frozen-eval            shrinking=false frozen_batchnorm=eval
ablation normalised             shrinking=false stand_in=normalised
ablation warm-up                shrinking=false warm_up_rounds=3
ablation warm-up-normalised     shrinking=false warm_up_rounds=3 stand_in=normalised

# What ends a step; in no-shrinking it is the published rule, which speaks from round 39 of a step on.
ablation pace-equal             shrinking=false pace=equal
ablation pace-parameters        shrinking=false pace=parameters
ablation pace-short-window      shrinking=false movement_rounds=3 slope_window=6 slope_evaluations=3
ablation pace-low-threshold     shrinking=false movement_rounds=3 slope_window=6 slope_evaluations=3 slope_threshold=0.05

case "${only:+$known }" in
    "" | *" $only "*) ;;
    *)
        echo "there is no ablation '$only': choose one of$known" >&2
        exit 2
        ;;
esac
