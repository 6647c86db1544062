package caddyfile

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// scalarKind is the type YAML 1.1 gives a scalar.
type scalarKind int

const (
	scalarText scalarKind = iota
	scalarNull
	scalarBool
	scalarInt
	scalarFloat
)

// scalar is a scalar as the original reads it. The parser underneath follows
// other rules in places (base 60, octal, yes and no), so its own idea of the
// types is not used.
type scalar struct {
	kind   scalarKind
	text   string  // as written, without quotes
	truth  bool    // of a bool
	number float64 // of an int or float; exact as far as anything here counts
}

// The patterns of YAML 1.1 as PyYAML has them. A float needs a dot, and an
// exponent a sign: 8e3 is text.
var (
	intPattern = regexp.MustCompile(`^(?:[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|` +
		`[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	floatPattern = regexp.MustCompile(`^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|` +
		`\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|` +
		`[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	boolPattern = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	nullPattern = regexp.MustCompile(`^(?:~|null|Null|NULL|)$`)

	// decimal is a number given as text.
	decimal = regexp.MustCompile(`^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$`)
)

// resolveScalar gives n its type: the one its tag asks for where the text is
// fit for it, text where it is quoted, else the one its form implies.
func resolveScalar(n *yaml.Node) scalar {
	const quotes = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	tag := ""
	if n.Style&yaml.TaggedStyle != 0 {
		tag = n.Tag
	} else if n.Style&quotes != 0 {
		tag = "!!str"
	}

	s := scalar{text: n.Value}
	may := func(t string) bool { return tag == "" || tag == t }
	switch {
	case tag == "!!null" || may("!!null") && nullPattern.MatchString(s.text):
		s.kind = scalarNull
	case may("!!bool") && boolPattern.MatchString(s.text):
		s.kind = scalarBool
		switch strings.ToLower(s.text) {
		case "yes", "true", "on":
			s.truth = true
		}
	case may("!!int") && intPattern.MatchString(s.text):
		s.kind, s.number = scalarInt, intValue(s.text)
	case may("!!float") && floatPattern.MatchString(s.text):
		s.kind, s.number = scalarFloat, floatValue(s.text)
	case tag == "!!float" && decimal.MatchString(s.text):
		s.kind, s.number = scalarFloat, floatValue(s.text)
	}
	return s
}

// intValue is the value of text that intPattern matches.
func intValue(text string) float64 {
	text, sign := signOf(strings.ReplaceAll(text, "_", ""))
	base := 10.0
	switch {
	case strings.HasPrefix(text, "0b"):
		text, base = text[2:], 2
	case strings.HasPrefix(text, "0x"):
		text, base = text[2:], 16
	case strings.HasPrefix(text, "0"):
		base = 8
	case strings.Contains(text, ":"):
		return sign * base60(text)
	}
	number := 0.0
	for _, c := range text {
		digit, _ := strconv.ParseUint(string(c), 16, 8)
		number = number*base + float64(digit)
	}
	return sign * number
}

// floatValue is the value of text that floatPattern or decimal matches.
func floatValue(text string) float64 {
	text, sign := signOf(strings.ReplaceAll(text, "_", ""))
	switch strings.ToLower(text) {
	case ".inf":
		return math.Inf(int(sign))
	case ".nan":
		return math.NaN()
	}
	return sign * base60(text)
}

// base60 reads hours, minutes and seconds as in 1:30:00, or a plain number.
// A number too large for a float64 is infinite, and refused as such.
func base60(text string) (number float64) {
	for part := range strings.SplitSeq(text, ":") {
		n, _ := strconv.ParseFloat(part, 64)
		number = number*60 + n
	}
	return number
}

func signOf(text string) (rest string, sign float64) {
	if rest, ok := strings.CutPrefix(text, "-"); ok {
		return rest, -1
	}
	return strings.TrimPrefix(text, "+"), 1
}
