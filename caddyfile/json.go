package caddyfile

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// ReadableJSON returns the config as JSON that decodes to an equal config. Its
// durations are text, where [json.Marshal] writes nanoseconds.
func (c Config) ReadableJSON() ([]byte, error) {
	return appendFields([]byte("{"), reflect.ValueOf(c))
}

// appendFields appends the fields of a struct that are not empty, and the closing
// brace of an object. before is the object up to there.
func appendFields(before []byte, object reflect.Value) (out []byte, err error) {
	out = before
	for i := range object.NumField() {
		v := object.Field(i)
		if v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 {
			continue
		}
		var text []byte
		d, isDuration := v.Interface().(*caddy.Duration)
		ttl, isTTL := v.Interface().(DNSTTL)
		switch {
		case isDuration:
			text, err = json.Marshal(FormatDuration(time.Duration(*d)))
		case isTTL:
			text, err = json.Marshal(ttl.lifetime().String())
		case v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct:
			text, err = appendFields([]byte("{"), v.Elem())
		default:
			text, err = json.Marshal(v.Interface())
		}
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(object.Type().Field(i).Tag.Get("json"), ",")
		if out[len(out)-1] != '{' {
			out = append(out, ',')
		}
		out = append(out, `"`+name+`":`...)
		out = append(out, text...)
	}
	return append(out, '}'), nil
}
