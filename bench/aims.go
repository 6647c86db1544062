package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// aim is what a value of a row should be: at most, or at least, a multiple of another
// value.
type aim struct {
	row, key string
	of       string  // the target that is judged; "" for ours
	than     string  // the target of the other value; "" for the same
	thanRow  string  // the row of the other value; "" for the same
	ratio    float64 // of the two values
	atLeast  bool
	growth   bool   // whether the peer's growth excuses that of the target
	why      string // the cause, if it is known; printed where the aim is missed
}

// verdict is an aim with what a run says about it.
type verdict struct {
	aim
	reached float64
	peer    float64 // the peer's growth; 0 if there is none
	met     bool
}

// judge returns the verdict of an aim. ok is false if a value was not measured.
func (a aim) judge(r *results) (v verdict, ok bool) {
	v = verdict{aim: a}
	value := func(target, row, key string) (float64, bool) { return r.median(row, target, key) }
	other := a.thanRow
	if other == "" {
		other = a.row
	}
	own, measured := value(a.target(), a.row, a.key)
	than, known := value(a.peer(), other, a.key)
	if !measured || !known || than <= 0 {
		return v, false
	}
	v.reached = own / than
	limit := a.ratio
	if a.growth {
		then, known := value(nginx, other, a.key)
		now, measured := value(nginx, a.row, a.key)
		if known && measured && then > 0 {
			v.peer = now / then
			limit = max(limit, v.peer)
		}
	}
	v.met = v.reached <= limit
	if a.atLeast {
		v.met = v.reached >= limit
	}
	return v, true
}

func (a aim) target() string {
	if a.of == "" {
		return ours
	}
	return a.of
}

func (a aim) peer() string {
	if a.than == "" {
		return a.target()
	}
	return a.than
}

// goal returns the aim in words.
func (a aim) goal() string {
	compare := "at most"
	if a.atLeast {
		compare = "at least"
	}
	text := fmt.Sprintf("%s %.2fx", compare, a.ratio)
	switch {
	case a.than != "":
		text += " " + a.than
	case a.thanRow != "":
		text += " that of " + strings.TrimPrefix(a.thanRow, "TCP ")
	}
	if a.growth {
		text += ", or as " + nginx
	}
	return text
}

// titles are the keys of values in words.
var titles = map[string]string{"cpu": "CPU", "machine": "CPU of the machine", "rate": "rate", "memory": "memory"}

func title(key string) string {
	if text, ok := titles[key]; ok {
		return text
	}
	return key
}

// verdicts returns the verdicts of all aims whose values were measured.
func (r *results) verdicts(all []aim) (list []verdict) {
	for _, a := range all {
		if v, ok := a.judge(r); ok {
			list = append(list, v)
		}
	}
	return list
}

// judgement returns the aims and what was reached, and the causes of misses.
func judgement(list []verdict) string {
	var out, causes strings.Builder
	met := 0
	out.WriteString("| row | value | aim | reached | |\n|---|---|---|---:|---|\n")
	ofAllRows := make(map[string][]verdict) // by target
	for _, v := range list {
		if v.met {
			met++
		} else if v.why != "" {
			fmt.Fprintf(&causes, "- %s, %s: %s\n", v.row, title(v.key), v.why)
		}
		if v.of != "" {
			ofAllRows[v.of] = append(ofAllRows[v.of], v)
			continue
		}
		reached := fmt.Sprintf("%.2fx", v.reached)
		if v.peer > 0 {
			reached += fmt.Sprintf(" (%s %.2fx)", nginx, v.peer)
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", v.row, title(v.key), v.goal(), reached, mark(v.met))
	}
	for _, target := range slices.Sorted(maps.Keys(ofAllRows)) {
		out.WriteString(inAllRows(target, ofAllRows[target]))
	}
	fmt.Fprintf(&out, "\n%d of %d aims are met.", met, len(list))
	if causes.Len() > 0 {
		out.WriteString(" Causes that are known:\n\n" + causes.String())
	} else {
		out.WriteString("\n")
	}
	return out.String()
}

func mark(met bool) string {
	if met {
		return "met"
	}
	return "**missed**"
}

// inAllRows returns one line for an aim that each row has.
func inAllRows(target string, list []verdict) string {
	least, most, missed := list[0].reached, list[0].reached, ""
	for _, v := range list {
		least, most = min(least, v.reached), max(most, v.reached)
		if !v.met {
			missed += fmt.Sprintf("; %s %.2fx", v.row, v.reached)
		}
	}
	result := mark(true)
	if missed != "" {
		result = mark(false) + ": " + missed[2:]
	}
	return fmt.Sprintf("| all %d rows, %s | CPU or memory | %s | %.2fx to %.2fx | %s |\n", len(list), target, list[0].goal(), least, most, result)
}
