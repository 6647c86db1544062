package main

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{
		{nil, 0}, {[]float64{7}, 7}, {[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.of); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.of, got, c.want)
		}
	}
	unsorted := []float64{3, 1, 2}
	if median(unsorted); unsorted[0] != 3 {
		t.Error("median sorted its argument")
	}
}

func TestSaveAndLoad(t *testing.T) {
	r := &results{Facts: []string{"fact"}, Columns: []string{ours}}
	r.begin("row")
	r.add("row", ours, values{"cpu": 1.5})
	r.fail("row", "peer", errors.New("down"))
	file := filepath.Join(t.TempDir(), "results.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	if got, err := loadResults(file); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("loaded %+v, %v; saved %+v", got, err, r)
	}
	if _, err := loadResults(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("no error for an absent file")
	}
}

// A row that is measured again replaces what was known of it, and of no other row.
func TestBeginReplaces(t *testing.T) {
	r := &results{}
	for _, name := range []string{"row", "row, longer"} {
		r.begin(name)
		r.add(name, ours, values{"cpu": 1})
	}
	r.fail("row", "peer", errors.New("down"))
	r.skip("row", errors.New("no root"))
	r.begin("row")
	r.add("row", ours, values{"cpu": 2})
	if got, _ := r.median("row", ours, "cpu"); got != 2 || len(r.Failed)+len(r.Skipped) != 0 {
		t.Errorf("median %v, failed %v, skipped %v", got, r.Failed, r.Skipped)
	}
	if got, _ := r.median("row, longer", ours, "cpu"); got != 1 {
		t.Errorf("the other row has %v", got)
	}
	if _, ok := r.median("row", "peer", "cpu"); ok {
		t.Error("a median of nothing")
	}
}
