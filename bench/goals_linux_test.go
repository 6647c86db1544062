package main

import "testing"

// An aim on a row or value that does not exist would be left out of the report.
func TestGoalsNameRows(t *testing.T) {
	rows := allRows(options{})
	keys := make(map[string]map[string]bool)
	for _, r := range rows {
		if keys[r.name] != nil {
			t.Errorf("two rows are called %q", r.name)
		}
		keys[r.name] = make(map[string]bool)
		for _, m := range r.metrics {
			for _, key := range m.keys {
				keys[r.name][key] = true
			}
		}
	}
	for _, a := range goals(rows) {
		for _, name := range []string{a.row, a.thanRow} {
			if name != "" && !keys[name][a.key] {
				t.Errorf("an aim names %s of the row %q, which has no such value", a.key, name)
			}
		}
	}
	for _, line := range summaryLines {
		for _, name := range line.rows {
			if !keys[name][line.key] {
				t.Errorf("README's table names %s of the row %q, which has no such value", line.key, name)
			}
		}
	}
}

// -quick measures every row that an aim or README's table names.
func TestQuickCoversGoals(t *testing.T) {
	quick := make(map[string]bool)
	for _, r := range allRows(options{quick: true}) {
		quick[r.name] = true
	}
	for _, a := range goals(allRows(options{quick: true})) {
		if !quick[a.row] || a.thanRow != "" && !quick[a.thanRow] {
			t.Errorf("-quick leaves out %q", a.row)
		}
	}
	for _, line := range summaryLines {
		for _, name := range line.rows {
			if !quick[name] {
				t.Errorf("-quick leaves out %q, of README's table", name)
			}
		}
	}
}
