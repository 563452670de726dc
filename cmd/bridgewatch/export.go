// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bridgewatch/bridgewatch/dashboards"
)

type exportCommand struct {
	What      string `arg:"" enum:"rules,dashboards,scrape-config,alertmanager" help:"rules, dashboards, scrape-config or alertmanager."`
	Directory string `placeholder:"DIR" help:"Where to write the files; a single file goes to the standard output without it."`
	Force     bool   `help:"Overwrite files that differ."`
}

// pattern is how the names of the files look.
func (c *exportCommand) pattern() string {
	switch c.What {
	case "rules":
		return "*.rules.yml"
	case "dashboards":
		return "*.json"
	case "scrape-config":
		return "scrape*.yml"
	}
	return "alertmanager*.yml"
}

// Run writes what matches this binary's version.
func (c *exportCommand) Run(to streams) error {
	files, err := readFiles(dashboards.Files(), c.pattern())
	switch {
	case err != nil:
		return err
	case len(files) == 0:
		return fmt.Errorf("this version has no %s", c.What)
	case c.Directory == "" && len(files) > 1:
		return fmt.Errorf("%s are %d files; say where to put them with --directory", c.What, len(files))
	case c.Directory == "":
		_, err := to.out.Write(files[0].content)
		return err
	}
	return c.write(to, files)
}

type exportedFile struct {
	name    string
	content []byte
}

func readFiles(from fs.FS, pattern string) ([]exportedFile, error) {
	names, err := fs.Glob(from, pattern)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", pattern, err)
	}
	var files []exportedFile
	for _, name := range names {
		content, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		files = append(files, exportedFile{name, content})
	}
	return files, nil
}

// write writes all files, or none if that would overwrite what somebody has changed.
func (c *exportCommand) write(to streams, files []exportedFile) error {
	same := make(map[string]bool)
	var differing []string
	for _, f := range files {
		path := filepath.Join(c.Directory, f.name)
		there, err := os.ReadFile(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return fmt.Errorf("look at what is there: %w", err)
		case bytes.Equal(there, f.content):
			same[f.name] = true
		default:
			differing = append(differing, path)
		}
	}
	if len(differing) > 0 && !c.Force {
		return fmt.Errorf("not overwriting what differs from this version's: %s; nothing was written, --force overwrites",
			strings.Join(differing, ", "))
	}
	if err := os.MkdirAll(c.Directory, 0o755); err != nil {
		return fmt.Errorf("make --directory: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(c.Directory, f.name)
		if same[f.name] {
			fmt.Fprintf(to.out, "unchanged %s\n", path)
			continue
		}
		if err := os.WriteFile(path, f.content, 0o644); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		fmt.Fprintf(to.out, "wrote %s\n", path)
	}
	return nil
}
