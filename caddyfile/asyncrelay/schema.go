package asyncrelay

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// jsonSchema is an object of a JSON schema.
type jsonSchema map[string]any

// Schema returns the JSON schema (draft 7) of async-relay's YAML files with the
// options of the relay as keys. Editors use it for completion and for checks while
// a file is written. It accepts every file that [Adapter] accepts. The adapter
// rejects more: what a schema cannot express, such as two services on one port.
func Schema() []byte {
	schema := jsonSchema{
		"$schema":     "http://json-schema.org/draft-07/schema#",
		"title":       "Configuration file of async-relay, read by caddy-relay",
		"type":        "object",
		"required":    []string{"services"},
		"definitions": definitions(),
		"properties": jsonSchema{
			"services": jsonSchema{"description": "The services", "type": "array", "minItems": 1, "items": ref("service")},
			"web_ui":   ref("web_ui"),
			"_meta":    jsonSchema{"description": "Written by async-relay itself"},
		},
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		panic(err) // cannot fail: only texts, numbers, lists and maps are encoded
	}
	return b.Bytes()
}

func ref(name string) jsonSchema { return jsonSchema{"$ref": "#/definitions/" + name} }

func described(description string, schema jsonSchema) jsonSchema {
	if _, isRef := schema["$ref"]; isRef { // draft 7 ignores what stands next to a $ref
		return jsonSchema{"description": description, "allOf": []jsonSchema{schema}}
	}
	schema["description"] = description
	return schema
}

// definitions returns the types of values. A number or a boolean may be text in
// async-relay's own keys, as in the original.
func definitions() jsonSchema {
	scalar := []string{"string", "number", "boolean"}
	text := jsonSchema{"type": "string", "minLength": 1}
	const digits = `^[ \t]*\+?[0-9]+[ \t]*$`
	const decimalText = `^[ \t]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*$`
	seconds := func(minimum jsonSchema) jsonSchema {
		number := jsonSchema{"type": "number", "maximum": caddyfile.MaxDuration.Seconds()}
		for key, value := range minimum {
			number[key] = value
		}
		return jsonSchema{"anyOf": []jsonSchema{number, {"type": "string", "pattern": decimalText}}}
	}
	return jsonSchema{
		"service":      object("A service: an address to listen on and an ordered list of backends", []string{"name", "listen", "backends"}, serviceProperties()),
		"health_check": object("Probes all backends at regular intervals", nil, healthCheckProperties()),
		"event_hook": object("A command to run when a backend fails or recovers", []string{"command"}, jsonSchema{
			"enabled": described("Whether the command runs (default: true)", jsonSchema{"type": "boolean"}),
			"command": described("The path or name of the command", jsonSchema{"type": scalar, "minLength": 1}),
			"args":    described("Its arguments", jsonSchema{"type": "array", "items": jsonSchema{"type": scalar}}),
			"events":  described("The events that run the command", jsonSchema{"type": "array", "items": jsonSchema{"enum": caddyfile.HookEvents()}}),
			"timeout": described("The time limit of the command in seconds (default: 30)", ref("positive_seconds")),
		}),
		"listen": object("The address to listen on", []string{"address", "port"}, jsonSchema{
			"address": described(`An address, "0.0.0.0" for all of IPv4, "::" for all, or a host name`, jsonSchema{"type": "string", "pattern": `^[^\[\] \t]+$`}),
			"port":    described("1 to 65535", ref("port")),
		}),
		"web_ui": object("The web page", nil, jsonSchema{
			"enabled":        jsonSchema{"type": "boolean"},
			"listen_address": described("Default: 127.0.0.1", jsonSchema{"type": "string", "minLength": 1}),
			"port":           described("Default: 8088", ref("port")),
			"auth": object("Requires a user name and a password", nil, jsonSchema{
				"enabled": jsonSchema{"type": "boolean"}, "username": jsonSchema{}, "password": jsonSchema{},
			}),
		}),
		"backend":          jsonSchema{"type": "string", "pattern": `^[ \t]*((\[[^\]\[]+\]|[^\[\]:@/ \t]+):[0-9]+|srv/[^\[\]:@/ \t]+)[ \t]*$`},
		"port":             jsonSchema{"anyOf": []jsonSchema{{"type": "integer", "minimum": 1, "maximum": 65535}, {"type": "string", "pattern": digits}}},
		"seconds":          seconds(jsonSchema{"minimum": 0}),
		"positive_seconds": seconds(jsonSchema{"exclusiveMinimum": 0}),
		"duration": jsonSchema{"anyOf": []jsonSchema{
			{"type": "number", "minimum": 0, "maximum": caddyfile.MaxDuration.Seconds()},
			{"type": "string", "pattern": `^([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d))*$`},
		}},
		"size":   jsonSchema{"anyOf": []jsonSchema{{"type": "integer", "minimum": 0}, {"type": "string", "pattern": `^[0-9]+(\.[0-9]+)? ?[kKmM]?[iI]?[bB]?$`}}},
		"text":   text,
		"texts":  jsonSchema{"anyOf": []jsonSchema{text, {"type": "array", "minItems": 1, "items": text}}},
		"status": jsonSchema{"anyOf": []jsonSchema{{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string", "pattern": `^([1-5]xx|[1-5][0-9][0-9](-[1-5][0-9][0-9])?)$`}}},
	}
}

func object(description string, required []string, properties jsonSchema) jsonSchema {
	o := jsonSchema{"description": description, "type": "object", "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func serviceProperties() jsonSchema {
	properties := optionProperties("")
	for key, schema := range map[string]jsonSchema{
		"name":             {"description": "The name of the service in logs, metrics and the admin API", "type": []string{"string", "number", "boolean"}, "pattern": `\S`},
		"protocol":         {"description": "tcp, udp or both (default: both)", "type": "string", "pattern": "^([tT][cC][pP]|[uU][dD][pP]|[bB][oO][tT][hH])$"},
		"listen":           ref("listen"),
		"backends":         {"description": "The backends in order of preference, each host:port", "type": "array", "minItems": 1, "items": ref("backend")},
		"backend_cooldown": described("How many seconds a backend is passed over after its second strike (default: 1800)", ref("seconds")),
		"health_check":     ref("health_check"),
		"event_hook":       ref("event_hook"),
	} {
		properties[key] = schema
	}
	return properties
}

func healthCheckProperties() jsonSchema {
	properties := optionProperties("health_check.")
	for key, schema := range map[string]jsonSchema{
		"enabled":     {"description": "Whether backends are probed (default: false)", "type": "boolean"},
		"interval":    described("The seconds between two probes of a backend (default: 60)", ref("positive_seconds")),
		"timeout":     described("The time limit of one probe in seconds (default: 5)", ref("positive_seconds")),
		"http_status": described("The healthy HTTP statuses, each a status such as 204, a class such as 2xx or a range such as 200-399 (default: 2xx)", jsonSchema{"anyOf": []jsonSchema{ref("status"), {"type": "array", "minItems": 1, "items": ref("status")}}}),
	} {
		properties[key] = schema
	}
	return properties
}

// optionProperties returns the options of a block that are keys of YAML files, from
// the table of options.
func optionProperties(prefix string) jsonSchema {
	properties := make(jsonSchema)
	for _, o := range caddyfile.AllOptions() {
		if key, ok := optionKey(o, prefix); ok {
			properties[key] = described(o.Usage, optionSchema(o))
		}
	}
	return properties
}

// optionSchema returns the type of an option's value.
func optionSchema(o caddyfile.OptionInfo) jsonSchema {
	switch {
	case o.Value == "":
		return jsonSchema{"type": "boolean"}
	case o.Name == "keepalive":
		return jsonSchema{"anyOf": []jsonSchema{ref("duration"), {"enum": []any{"off", false}}}}
	case o.Name == "dns_ttl":
		record := jsonSchema{"type": "string", "pattern": "^record( |$)"}
		return jsonSchema{"anyOf": []jsonSchema{ref("duration"), record, {"type": "array", "minItems": 1, "maxItems": 3}}}
	case o.Kind == caddyfile.KindDuration:
		return ref("duration")
	case o.Kind == caddyfile.KindWord:
		words := []any{}
		for word := range strings.SplitSeq(o.Value, "|") {
			words = append(words, word)
			switch word { // YAML 1.1 reads these words as booleans
			case "on":
				words = append(words, true)
			case "off":
				words = append(words, false)
			}
		}
		return jsonSchema{"enum": words}
	case o.Kind == caddyfile.KindNumber && o.Value == "<size>":
		return ref("size")
	case o.Kind == caddyfile.KindNumber:
		return countSchema(o)
	case o.Many:
		return ref("texts")
	}
	return ref("text")
}

// countSchema returns the type of a whole number, with its bounds.
func countSchema(o caddyfile.OptionInfo) jsonSchema {
	schema := jsonSchema{"type": "integer", "minimum": o.Least}
	if o.Most > 0 {
		schema["maximum"] = o.Most
	}
	return schema
}
