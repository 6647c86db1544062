package asyncrelay

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// scalarKind is the type of a scalar in YAML 1.1.
type scalarKind int

const (
	scalarText scalarKind = iota
	scalarNull
	scalarBool
	scalarInt
	scalarFloat
)

// scalar is a scalar with the type that async-relay gives it. The type of the
// YAML parser is not used, because the parser follows other rules for base 60,
// octal numbers, yes and no.
type scalar struct {
	kind    scalarKind
	text    string  // as written, without quotes
	boolean bool    // value of a bool
	number  float64 // value of an int or float; exact for all valid ports and durations
}

// The patterns of YAML 1.1 as in PyYAML. A float needs a dot and its exponent
// needs a sign, so 8e3 is text.
var (
	intPattern = regexp.MustCompile(`^(?:[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|` +
		`[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	floatPattern = regexp.MustCompile(`^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|` +
		`\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|` +
		`[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	boolPattern = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	nullPattern = regexp.MustCompile(`^(?:~|null|Null|NULL|)$`)

	// decimal matches text that is a decimal number.
	decimal = regexp.MustCompile(`^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$`)
)

// resolveScalar returns n with its type. A tag determines the type if the text is
// valid for it. Quoted text is text. Otherwise the form of the text determines
// the type.
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
			s.boolean = true
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

// intValue returns the value of text that intPattern matches.
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

// floatValue returns the value of text that floatPattern or decimal matches.
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

// base60 parses a number in base 60, such as 1:30:00, or a plain number. A number
// too large for a float64 becomes infinite, which all callers reject.
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
