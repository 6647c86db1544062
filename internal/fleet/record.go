package fleet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// version is the version of records. Records of others are ignored.
const version = 1

// Limits of what is accepted from other nodes.
const (
	maxRecord = 1 << 20 // bytes
	maxText   = 512     // bytes of each text; settings in the place of a name are hashed
)

// Record is what a node publishes.
type Record struct {
	Version    int         `json:"version"`
	Node       string      `json:"node"`
	Sequence   uint64      `json:"sequence"` // advances with each write
	Beat       int64       `json:"beat_ms"`  // time between two writes at most
	Down       []Claim     `json:"down,omitempty"`
	Operations []Operation `json:"operations,omitempty"`
}

// Claim says that a backend is down on its node.
type Claim struct {
	Target
	Demotions uint64 `json:"demotions"` // so far; another number is another outage
}

// Target is a backend of a service on one network.
type Target struct {
	Service string `json:"service"`
	Backend string `json:"backend"`
	Network string `json:"network"` // tcp or udp
}

// Operation is what an operator did on one node.
type Operation struct {
	Kind    Kind   `json:"kind"`
	Service string `json:"service"`
	Backend string `json:"backend,omitempty"` // of drains and drills
	By      string `json:"by,omitempty"`      // the operator

	Clock uint64 `json:"clock"` // Lamport clock of the operation
	Node  string `json:"node"`  // on which it was requested

	On       bool   `json:"on,omitempty"`           // it begins a drain, hold or drill; else it ends one
	Left     int64  `json:"left_ms,omitempty"`      // of a hold or drill, when the record was written
	Fault    string `json:"fault,omitempty"`        // of a drill
	Force    bool   `json:"force,omitempty"`        // of a drill
	CutAfter int64  `json:"cut_after_ms,omitempty"` // time limit of a drain; 0: none
}

// Kind is the kind of an operation.
type Kind string

// The kinds of operations.
const (
	Drain Kind = "drain"
	Reset Kind = "reset"
	Hold  Kind = "hold"
	Drill Kind = "drill"
)

// key identifies the operations of which only the latest counts.
type key struct {
	kind             Kind
	service, backend string
}

func (o *Operation) key() key { return key{o.Kind, o.Service, o.Backend} }

// after reports whether o is later than other.
func (o *Operation) after(other *Operation) bool {
	return cmp.Or(cmp.Compare(o.Clock, other.Clock), cmp.Compare(o.Node, other.Node)) > 0
}

// temporary reports whether o begins what ends by itself.
func (o *Operation) temporary() bool { return (o.Kind == Hold || o.Kind == Drill) && o.On }

// VersionError is the error of a record of another version.
type VersionError int

// Error implements error.
func (e VersionError) Error() string {
	return fmt.Sprintf("the record has version %d, and this relay reads version %d", int(e), version)
}

// Decode decodes a record. Whatever it is given, it does not panic. Parts that this
// version does not know are left out.
func Decode(text []byte) (Record, error) {
	if len(text) > maxRecord {
		return Record{}, fmt.Errorf("the record has %d bytes, at most %d are read", len(text), maxRecord)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	if head.Version != version {
		return Record{}, VersionError(head.Version)
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("decode record: %w", err)
	}
	if !plain(r.Node) || r.Node == "" {
		return Record{}, errors.New("decode record: bad name of the node")
	}
	r.Down = slices.DeleteFunc(r.Down, func(c Claim) bool { return !c.valid() })
	r.Operations = slices.DeleteFunc(r.Operations, func(o Operation) bool { return !o.valid() })
	for i := range r.Operations {
		o := &r.Operations[i]
		o.By = printable(o.By)
		o.Left, o.CutAfter = duration(o.Left).Milliseconds(), duration(o.CutAfter).Milliseconds()
	}
	return r, nil
}

// encode returns the text of a record.
func (r Record) encode() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // a record has only texts and numbers
	}
	return text
}

// beat returns the time between two writes, within bounds.
func (r *Record) beat() time.Duration {
	return min(max(time.Duration(min(r.Beat, int64(maxBeat/time.Millisecond)))*time.Millisecond, minBeat), maxBeat)
}

func (c *Claim) valid() bool {
	return plain(c.Service) && plain(c.Backend) && (c.Network == "tcp" || c.Network == "udp")
}

func (o *Operation) valid() bool {
	if !plain(o.Service) || !plain(o.Backend) || !plain(o.Node) || !plain(o.Fault) || o.Node == "" {
		return false
	}
	switch o.Kind {
	case Drain, Drill:
		return o.Backend != ""
	case Reset, Hold:
		return o.Backend == ""
	default:
		return false
	}
}

// plain reports whether a text may be a name.
func plain(s string) bool {
	return len(s) <= maxText && strings.IndexFunc(s, unicode.IsControl) < 0
}

// printable returns a text without control characters, cut to a bearable length.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}

// milliseconds returns a duration for a record, rounded up.
func milliseconds(d time.Duration) int64 {
	return int64((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
}

// duration returns a duration of a record. Nothing that a record has lasts longer
// than a day.
func duration(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), int64(24*time.Hour/time.Millisecond))) * time.Millisecond
}
