package asyncrelay

import (
	"math"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestScalars compares types and values with those of PyYAML.
func TestScalars(t *testing.T) {
	for text, want := range map[string]any{
		"":               nil,
		"~":              nil,
		"null":           nil,
		"nUll":           "nUll",
		`""`:             "",
		"yes":            true,
		"On":             true,
		"OFF":            false,
		"no":             false,
		"True":           true,
		"tRue":           "tRue",
		"y":              "y",
		`"yes"`:          "yes",
		"'no'":           "no",
		"0":              0,
		"8080":           8080,
		"-1":             -1,
		"+8080":          8080,
		"8_080":          8080,
		"0x1F90":         8080,
		"-0x10":          -16,
		"0b101":          5,
		"017700":         8128,
		"08080":          "08080",
		"0o17":           "0o17",
		"22:22":          1342,
		"1:00:00":        3600,
		"-1:30":          -90,
		"1:60":           "1:60",
		"10:80":          "10:80",
		"8080.0":         8080.0,
		"1_0.5":          10.5,
		".5":             0.5,
		"5.":             5.0,
		"1.5e+3":         1500.0,
		"1.5e3":          "1.5e3",
		"8e3":            "8e3",
		"1:30.5":         90.5,
		".inf":           math.Inf(1),
		"-.INF":          math.Inf(-1),
		"infinity":       "infinity",
		"10.0.0.1":       "10.0.0.1",
		"10.0.0.1:80":    "10.0.0.1:80",
		"2001-01-01":     "2001-01-01",
		`!!int "8080"`:   8080,
		`!!int "x"`:      "x",
		`!!str 8080`:     "8080",
		`!!float "5"`:    5.0,
		`!!float 5`:      5.0,
		`!!bool "yes"`:   true,
		`!!null x`:       nil,
		"|\n  8080":      "8080",
		">-\n  yes":      "yes",
		"! 5":            5,
		"99999999999999": int64(99999999999999), // an int has 32 bits on some systems
	} {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte("a: "+text+"\n"), &doc); err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		got := resolveScalar(doc.Content[0].Content[1])
		var value any
		switch got.kind {
		case scalarText:
			value = strings.TrimSuffix(got.text, "\n")
		case scalarBool:
			value = got.boolean
		case scalarInt:
			if value = int64(got.number); got.number <= math.MaxInt32 {
				value = int(got.number)
			}
		case scalarFloat:
			value = got.number
		}
		if value != want {
			t.Errorf("%q: got %#v, want %#v", text, value, want)
		}
	}
}
