package config

import (
	"strconv"
	"strings"
)

// Template returns a commented configuration file with every setting at its
// default.
func Template() string {
	var b strings.Builder
	b.WriteString("# Configuration of slackerd, with every setting at its default.\n" +
		"# A flag or a variable (SLACKER_ and the key in capitals, such as\n" +
		"# SLACKER_SERVER_DATA_DIR) takes precedence over this file.\n")
	section := ""
	for i := range settings {
		s := &settings[i]
		name, key, _ := strings.Cut(s.key, ".")
		if name != section {
			section = name
			b.WriteString("\n# " + sections[name] + "\n" + name + ":\n")
		}
		comment(&b, s.doc)
		comment(&b, "Want "+s.want+".")
		b.WriteString("  " + key + ":" + yamlValue(s) + "\n")
	}
	return b.String()
}

func comment(b *strings.Builder, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString("  # " + line + "\n")
	}
}

// yamlValue writes a default. What is neither a number nor a bool is quoted.
func yamlValue(s *setting) string {
	scalar := func(v string) string {
		if _, err := strconv.ParseInt(v, 10, 64); err == nil || v == "true" || v == "false" {
			return v
		}
		return strconv.Quote(v)
	}
	if !s.list {
		return " " + scalar(s.def[0])
	}
	if len(s.def) == 0 {
		return " []"
	}
	var b strings.Builder
	for _, v := range s.def {
		b.WriteString("\n    - " + scalar(v))
	}
	return b.String()
}
