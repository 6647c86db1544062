// Package memory keeps the state of all services of a process for the next one: a
// [Record], and a [Keeper] that writes it to a storage when it changes. It knows
// nothing of Caddy, and of the state only its form.
package memory

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/resolver"
	"github.com/async-relay/caddy-relay/upstream"
)

// format is in each record. Other JSON is not one.
const format = "caddy-relay memory"

// version is the version of the records that this program writes. It is incremented
// when older programs would misread them. Fields may be added without that.
const version = 1

// maxSize bounds a record that is decoded.
const maxSize = 64 << 20

// Record is the state of all services of a process.
type Record struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	SavedAt time.Time `json:"saved_at"`
	Writer  Writer    `json:"writer"`

	// Services has the services that are not in the state of new ones, by their keys.
	Services map[string]Service `json:"services,omitempty"`

	// Names has the last good answers for names in use, by the DNS settings of the
	// caches that had them.
	Names map[string][]resolver.Saved `json:"names,omitempty"`

	// Counts is only in the last record of a process, because smaller counters than
	// those exported last look like a restart from zero, whose rate is their value.
	Counts *Counts `json:"counts,omitempty"`
}

// Writer is the process that has written a record.
type Writer struct {
	ID      string    `json:"id"` // unique: in containers, many processes have the PID 1
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Relay   string    `json:"relay"` // version of the program
}

// Service is the state of a service.
type Service struct {
	Queue     upstream.Saved     `json:"queue,omitzero"`
	HeldUntil time.Time          `json:"held_until,omitzero"` // end of an operator's hold
	Targets   map[string]Targets `json:"targets,omitempty"`   // of SRV backends, by name
}

// IsZero reports whether the service is in the state of a new one.
func (s Service) IsZero() bool {
	return s.Queue.IsZero() && s.HeldUntil.IsZero() && len(s.Targets) == 0
}

// Targets is the last good answer for an SRV name.
type Targets struct {
	List       []Target  `json:"list"` // in the order to try them
	ResolvedAt time.Time `json:"resolved_at"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
}

// Target is one target of an SRV record.
type Target struct {
	Host string `json:"host"` // lower case, ends with a dot
	Port uint16 `json:"port"`
}

// Counts holds all counters.
type Counts struct {
	Services map[string]handler.SavedCounts `json:"services,omitempty"` // by their keys
	Series   []Series                       `json:"series,omitempty"`   // what the metrics have beyond Services
	Lookups  Lookups                        `json:"lookups,omitzero"`
}

// Series is a counter or histogram of the metrics.
type Series struct {
	Metric  string   `json:"metric"`
	Labels  []string `json:"labels"`
	Figures []uint64 `json:"figures"`
}

// Lookups counts DNS queries.
type Lookups struct {
	OK     uint64 `json:"ok,omitempty"`
	Stale  uint64 `json:"stale,omitempty"`
	Failed uint64 `json:"failed,omitempty"`
}

// Reasons why a record is not used.
var (
	ErrForeign = errors.New("it is not a memory of a relay")
	ErrNewer   = errors.New("it was written by a newer version of the relay")
)

// Encode returns the record as text. The format and the version are filled in.
func (r Record) Encode() []byte {
	r.Format, r.Version = format, version
	text, _ := json.Marshal(r) // all of its types can be encoded
	return text
}

// Decode returns the record in text. It accepts no record that is damaged, foreign or
// of a newer version.
func Decode(text []byte) (*Record, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("it has %d bytes, more than any memory has", len(text))
	}
	if !json.Valid(text) {
		return nil, errors.New("it is damaged: not valid JSON")
	}
	header, err := decodeHeader(text)
	if err != nil {
		return nil, err
	}
	if header.Version > version {
		return nil, fmt.Errorf("%w (format %d)", ErrNewer, header.Version)
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	return &r, nil
}

// header is the part of a record that all versions have.
type header struct {
	Format  string
	Version int
	SavedAt json.RawMessage `json:"saved_at"`
	Writer  Writer
}

func decodeHeader(text []byte) (h header, err error) {
	if json.Unmarshal(text, &h) != nil || h.Format != format {
		return header{}, ErrForeign
	}
	return h, nil
}

// check returns an error for content that no program has written.
func (r *Record) check() error {
	if r.Version < 1 || r.SavedAt.IsZero() {
		return errors.New("it has no version or no time")
	}
	for key, s := range r.Services {
		if !s.Queue.Valid() {
			return fmt.Errorf("queue of service %q", key)
		}
		for name, targets := range s.Targets {
			for _, t := range targets.List {
				if len(t.Host) < 2 || !strings.HasSuffix(t.Host, ".") || t.Host != strings.ToLower(t.Host) || t.Port == 0 {
					return fmt.Errorf("target %q of %q", t.Host, name)
				}
			}
		}
	}
	for _, answers := range r.Names {
		for _, a := range answers {
			if a.Host == "" {
				return errors.New("an answer without a name")
			}
		}
	}
	return nil
}

// Age returns the time since the record was written. A time in the future, of a clock
// that was set back since, counts like one in the past.
func (r *Record) Age(now time.Time) time.Duration {
	age := now.Sub(r.SavedAt)
	if age == math.MinInt64 {
		return math.MaxInt64
	}
	return max(age, -age)
}
