package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// noticeable is the least change that a comparison prints.
const noticeable = 0.02

// moreIsBetter holds the keys of values of which more is better.
var moreIsBetter = map[string]bool{"rate": true, "beside": true}

// informative holds the keys of values that are no aim by themselves: the CPU of the
// load, the backend and the kernel, which the machine's contains.
var informative = map[string]bool{"load": true, "backend": true, "kernel": true}

// worse returns by how much a value became worse, relative to the old one. That is
// infinite for what was zero.
func worse(key string, before, now float64) float64 {
	if now == before {
		return 0
	}
	change := (now - before) / before
	if moreIsBetter[key] {
		return -change
	}
	return change
}

// compare lists the medians of the relay that became worse than in old by more than 2 %,
// worst first. Next to each is the change of nginx in the same row: where it is as
// large, the machine has become slower, and not the relay.
func (r *results) compare(old *results) string {
	type change struct {
		by   float64
		text string
	}
	var all []change
	compared := 0
	for _, row := range r.Rows {
		before := old.row(row.Name)
		if before == nil {
			continue
		}
		for _, target := range slices.Sorted(maps.Keys(row.Samples)) {
			if !strings.HasPrefix(target, "relay") {
				continue
			}
			for _, key := range slices.Sorted(maps.Keys(row.Samples[target])) {
				then, known := before.median(target, key)
				now, _ := row.median(target, key)
				if !known || informative[key] {
					continue
				}
				compared++
				if by := worse(key, then, now); by > noticeable {
					all = append(all, change{by, fmt.Sprintf("%s, %s, %s: %s, was %s (%s%s)",
						row.Name, target, key, number(now), number(then), percent(by), row.drift(before, key))})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b change) int { return cmp.Compare(b.by, a.by) })
	var out strings.Builder
	fmt.Fprintf(&out, "Worse by more than %.0f %%: %d of %d values\n", 100*noticeable, len(all), compared)
	for _, c := range all {
		fmt.Fprintf(&out, "- %s\n", c.text)
	}
	return out.String()
}

// drift tells how nginx's value changed.
func (r *rowResult) drift(before *rowResult, key string) string {
	then, known := before.median(nginx, key)
	now, measured := r.median(nginx, key)
	if !known || !measured || then <= 0 {
		return ""
	}
	return "; " + nginx + " " + percent(worse(key, then, now))
}

func percent(worse float64) string {
	switch {
	case math.IsInf(worse, 0):
		return "worse than nothing"
	case worse < 0:
		return fmt.Sprintf("%.0f %% better", -100*worse)
	}
	return fmt.Sprintf("%.0f %% worse", 100*worse)
}
