// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bridgewatch/bridgewatch/dashboards"
)

// exported runs export with a folder and returns its exit code and output.
func exported(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), append([]string{"export"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

// Every file that ships with the agent can be had, as it is, in exactly one way.
func TestExportAll(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "new", "folder")
	written := make(map[string]string)
	for _, what := range []string{"rules", "dashboards", "scrape-config", "alertmanager"} {
		code, stdout, stderr := exported(t, what, "--directory="+folder)
		if code != exitGood || stderr != "" || stdout == "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", what, code, stdout, stderr)
		}
		for line := range strings.Lines(stdout) {
			path, ok := strings.CutPrefix(strings.TrimSpace(line), "wrote ")
			if content, err := os.ReadFile(path); !ok || err != nil {
				t.Errorf("%s says %q: %v", what, line, err)
			} else {
				written[filepath.Base(path)] = string(content)
			}
		}
	}
	shipped := make(map[string]string)
	err := fs.WalkDir(dashboards.Files(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(dashboards.Files(), path)
		shipped[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shipped, written); diff != "" {
		t.Error(diff)
	}
}

func TestExportOverwritesNothing(t *testing.T) {
	folder := t.TempDir()
	if code, _, stderr := exported(t, "dashboards", "--directory="+folder); code != exitGood {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	ours := filepath.Join(folder, dashboards.Overview)
	shipped, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	if _, stdout, _ := exported(t, "dashboards", "--directory="+folder); !strings.Contains(stdout, "unchanged "+ours) || strings.Contains(stdout, "wrote") {
		t.Errorf("the second time it says %q", stdout)
	}
	if err := os.WriteFile(ours, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	others = slices.DeleteFunc(others, func(path string) bool { return path == ours })
	for _, path := range others {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := exported(t, "dashboards", "--directory="+folder)
	if code != exitCannot || stdout != "" || !strings.Contains(stderr, ours) || !strings.Contains(stderr, "--force") {
		t.Errorf("exit code %d, stdout %q, stderr %q; want a refusal that names the file and the way out", code, stdout, stderr)
	}
	for _, path := range others {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was written although another was refused", path)
		}
	}
	if content, err := os.ReadFile(ours); err != nil || string(content) != "precious" {
		t.Errorf("the changed file is %q, %v", content, err)
	}
	if code, stdout, _ := exported(t, "dashboards", "--force", "--directory="+folder); code != exitGood || !strings.Contains(stdout, "wrote "+ours) {
		t.Errorf("with --force: exit code %d, stdout %q", code, stdout)
	}
	if content, err := os.ReadFile(ours); err != nil || !bytes.Equal(content, shipped) {
		t.Errorf("with --force the file has %d bytes, want %d; %v", len(content), len(shipped), err)
	}
}

func TestExportCannot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, dashboards.ScrapeConfig), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, directory := range []string{file, folder} {
		code, stdout, stderr := exported(t, "scrape-config", "--force", "--directory="+directory)
		if code != exitCannot || stdout != "" || !strings.Contains(stderr, directory) {
			t.Errorf("exit code %d, stdout %q, stderr %q; want it to name %s", code, stdout, stderr, directory)
		}
	}
}
