package catalog

import "testing"

// TestPaper holds the catalog to table 1 of the paper.
func TestPaper(t *testing.T) {
	want := map[Category]int{Distribution: 13, Database: 10, Language: 17, WebServer: 6, WebFramework: 4, Other: 7}
	got := map[Category]int{}
	names := map[string]bool{}
	for _, i := range All() {
		got[i.Category]++
		if names[i.Name] {
			t.Errorf("%s is there twice", i.Name)
		}
		names[i.Name] = true
	}
	total := 0
	for _, c := range Categories {
		total += got[c]
		if got[c] != want[c] {
			t.Errorf("%s: %d images, want %d", c, got[c], want[c])
		}
	}
	if total != 57 || len(All()) != 57 {
		t.Errorf("%d images, %d in the categories, want 57", len(All()), total)
	}
}

func TestTasksAreWhole(t *testing.T) {
	for _, i := range All() {
		for _, task := range []Task{i.Run(false), i.Run(true)} {
			if task.Server() == (task.Output != "") {
				t.Errorf("%s: want a server's ready line or URL, or a command's output, got %+v", i.Name, task)
			}
			if (task.Mount == "") != (len(task.Files) == 0) {
				t.Errorf("%s: want a mount and files, or neither, got %q and %d files", i.Name, task.Mount, len(task.Files))
			}
		}
	}
	if _, ok := Find("gcc:12"); !ok {
		t.Error("gcc:12 is not found")
	}
	if _, ok := Find("nonesuch"); ok {
		t.Error("nonesuch is found")
	}
}
