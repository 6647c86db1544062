package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
)

// metric is one line of a row in the report: a number, or several that belong
// together.
type metric struct {
	title string
	keys  []string // of values
	ratio bool     // whether cells show ratios
}

func single(key, title string, ratio bool) metric { return metric{title, []string{key}, ratio} }

// cpuPer is the CPU time of the relay and of the whole machine for a unit of work.
func cpuPer(unit string) metric {
	return metric{"CPU " + unit + ", relay / machine", []string{"cpu", "machine"}, true}
}

func latency() metric {
	return metric{"ms p50 / p99 / p99.9", []string{"p50", "p99", "p99.9"}, true}
}

func roundTrips() []metric {
	return []metric{cpuPer("µs per round trip"), single("rate", "round trips/s", true), latency()}
}

// values are the results of one measurement, by key.
type values map[string]float64

// results are those of a run. They are saved as JSON.
type results struct {
	Facts   []string     `json:"facts"`   // of the run
	Columns []string     `json:"columns"` // names of targets, in the order of the tables
	Rows    []*rowResult `json:"rows"`
	Failed  []string     `json:"failed,omitempty"`  // cells without a number, and the error
	Skipped []string     `json:"skipped,omitempty"` // rows that were not measured, and the reason
}

// rowResult holds what was measured in a row: by target and key, one value a round.
type rowResult struct {
	Name    string                          `json:"name"`
	Samples map[string]map[string][]float64 `json:"samples"`
}

// row returns the results of a row, or nil.
func (r *results) row(name string) *rowResult {
	if i := slices.IndexFunc(r.Rows, func(row *rowResult) bool { return row.Name == name }); i >= 0 {
		return r.Rows[i]
	}
	return nil
}

// begin drops what is known of a row.
func (r *results) begin(name string) {
	about := func(text string) bool {
		return strings.HasPrefix(text, name+", ") || strings.HasPrefix(text, name+": ")
	}
	r.Rows = slices.DeleteFunc(r.Rows, func(row *rowResult) bool { return row.Name == name })
	r.Failed = slices.DeleteFunc(r.Failed, about)
	r.Skipped = slices.DeleteFunc(r.Skipped, about)
	r.Rows = append(r.Rows, &rowResult{Name: name, Samples: map[string]map[string][]float64{}})
}

// add adds the values of one round.
func (r *results) add(row, target string, v values) {
	samples := r.row(row).Samples
	if samples[target] == nil {
		samples[target] = map[string][]float64{}
	}
	for key, value := range v {
		samples[target][key] = append(samples[target][key], value)
	}
}

// fail records the first error of a target in a row.
func (r *results) fail(row, target string, err error) {
	prefix := row + ", " + target + ": "
	if !slices.ContainsFunc(r.Failed, func(text string) bool { return strings.HasPrefix(text, prefix) }) {
		r.Failed = append(r.Failed, prefix+err.Error())
	}
}

func (r *results) skip(row string, reason error) {
	r.Skipped = append(r.Skipped, row+": "+reason.Error())
}

// median returns the median of a key over the rounds. ok is false if there is none.
func (r *results) median(row, target, key string) (v float64, ok bool) {
	if found := r.row(row); found != nil {
		return found.median(target, key)
	}
	return 0, false
}

func (r *rowResult) median(target, key string) (v float64, ok bool) {
	s := r.Samples[target][key]
	return median(s), len(s) > 0
}

func median(s []float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

func (r *results) save(file string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func loadResults(file string) (*results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(results)
	return r, json.Unmarshal(text, r)
}
