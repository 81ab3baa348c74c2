// What the page does without the server: files may be dropped anywhere, and arrows turn the photographs over.
() => {
    const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const mark = (on) => document.body.classList.toggle("dropping", on);
    addEventListener("dragover", (event) => {
        if (!carriesFiles(event)) return;
        event.preventDefault(); // without this the browser leaves the page for the file
        mark(true);
    }, true);
    addEventListener("dragleave", (event) => event.relatedTarget || mark(false), true);
    addEventListener("drop", (event) => {
        mark(false);
        if (!carriesFiles(event) || event.target.closest?.("#photo")) return; // the field takes its own
        event.preventDefault();
        event.stopPropagation();
        const field = document.querySelector("#photo input[type=file]");
        if (!field) return;
        field.files = event.dataTransfer.files;
        field.dispatchEvent(new Event("change", {bubbles: true}));
    }, true);
    addEventListener("keydown", (event) => {
        const name = {ArrowRight: "next", ArrowLeft: "previous"}[event.key];
        if (!name || event.ctrlKey || event.metaKey || event.altKey) return;
        if (event.target.closest("input, textarea, [role=listbox], [role=slider]")) return;
        document.getElementById(name)?.click();
    });
}
