/** The plugins: outputs, the panel of runs, studies, the notebook's toggle with its place in the status bar. */

import { ILabShell, type JupyterFrontEnd, type JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette, IThemeManager, MainAreaWidget } from "@jupyterlab/apputils";
import type { DocumentRegistry } from "@jupyterlab/docregistry";
import { IRenderMimeRegistry } from "@jupyterlab/rendermime";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { IStatusBar } from "@jupyterlab/statusbar";
import { ITranslator, nullTranslator } from "@jupyterlab/translation";
import { DisposableDelegate, type IDisposable } from "@lumino/disposable";
import { Widget } from "@lumino/widgets";
import { element } from "../core/dom";
import { style } from "../core/kinds";
import { TABS_STYLE } from "../core/tabs";
import { keepKeys } from "./keys";
import { Output } from "./output";
import { Comparison, RunsPanel } from "./panel";
import { MIME } from "../core/payload";
import { IRuns, Runs } from "./runs";
import { address, asName, followLinks, StudyTab } from "./studies";
import { STYLE } from "./style";
import { Toggle } from "./toggle";

const DOMAIN = "deepseek_lab";
/** Before widgets (0) and HTML: with this extension the saved data is drawn. */
const RANK = -10;

const outputs: JupyterFrontEndPlugin<IRuns> = {
  id: "deepseek-lab:outputs",
  description: "Draws outputs of deepseek_lab and follows their runs.",
  autoStart: true,
  requires: [IRenderMimeRegistry],
  optional: [ISettingRegistry],
  provides: IRuns,
  activate: (
    _: JupyterFrontEnd,
    rendermime: IRenderMimeRegistry,
    registry: ISettingRegistry | null,
  ): IRuns => {
    document.head.append(element("style", {}, style() + TABS_STYLE + STYLE));
    keepKeys(".dsl-output, .dsl-comparison");
    const runs = new Runs();
    let live = true;
    void registry?.load(outputs.id).then((settings) => {
      const read = (): void => {
        live = settings.get("live").composite !== false;
      };
      settings.changed.connect(read);
      read();
    });
    rendermime.addFactory(
      { safe: true, mimeTypes: [MIME], createRenderer: () => new Output(runs, () => live) },
      RANK,
    );
    return runs;
  },
};

/** The document that is in front, where it is one with a kernel. */
function current(app: JupyterFrontEnd): Widget | null {
  return app.shell.currentWidget;
}

const panel: JupyterFrontEndPlugin<void> = {
  id: "deepseek-lab:panel",
  description: "A side panel with the runs of the notebook that is in front.",
  autoStart: true,
  requires: [IRuns],
  optional: [ILabShell, ICommandPalette, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    runs: IRuns,
    shell: ILabShell | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null,
  ): void => {
    const words = (translator ?? nullTranslator).load(DOMAIN);
    let compared = 0;
    const category = "DeepSeek Lab";
    const made = new RunsPanel(runs, words, (one, other) => {
      const widget = new MainAreaWidget({ content: new Comparison(one, other) });
      widget.id = `deepseek-lab-comparison-${++compared}`;
      widget.title.label = words.__("Two runs");
      widget.title.closable = true;
      // Notebook 7 has one document in a page: there it stands below.
      app.shell.add(widget, shell === null ? "down" : "main", { mode: "split-right" });
      app.shell.activateById(widget.id);
    });
    made.id = "deepseek-lab-runs";
    made.title.caption = words.__("Runs of deepseek_lab");
    made.title.label = words.__("Runs");
    app.shell.add(made, "right", { rank: 800 });
    // Notebook 7 has one document, which comes later than this.
    const follow = (): void => made.follow(current(app));
    app.shell.currentChanged?.connect(follow);
    void app.restored.then(follow);
    follow();
    app.commands.addCommand("deepseek-lab:show-runs", {
      label: words.__("Show Runs"),
      execute: () => app.shell.activateById(made.id),
    });
    app.commands.addCommand("deepseek-lab:stop-runs", {
      label: words.__("Stop the Runs of This Notebook"),
      isEnabled: () => runs.inside(current(app)).some((one) => one.live),
      execute: () => {
        for (const one of runs.inside(current(app))) if (one.live) one.stop();
      },
    });
    runs.changed.connect(() => app.commands.notifyCommandChanged("deepseek-lab:stop-runs"));
    for (const command of ["deepseek-lab:show-runs", "deepseek-lab:stop-runs"])
      palette?.addItem({ command, category });
  },
};

const toggles: JupyterFrontEndPlugin<void> = {
  id: "deepseek-lab:toggle",
  description: "A toggle in the toolbar of notebooks, and its state in the status bar.",
  autoStart: true,
  requires: [IRuns],
  optional: [IStatusBar, ICommandPalette, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    runs: IRuns,
    statusBar: IStatusBar | null,
    palette: ICommandPalette | null,
    translator: ITranslator | null,
  ): void => {
    const words = (translator ?? nullTranslator).load(DOMAIN);
    const made = new Map<Widget, Toggle>();
    const item = new Widget();
    item.addClass("dsl-status");
    const show = (): void => {
      const toggle = made.get(current(app) as Widget);
      const live = runs.inside(current(app)).filter((one) => one.live).length;
      const running = live > 0 ? words._n("%1 run live", "%1 runs live", live) : "";
      const on = toggle?.state === "on" ? words.__("every cell optimised") : "";
      const said = [running, on].filter((text) => text !== "").join(", ");
      item.node.textContent = said === "" ? "" : `DeepSeek: ${said}`;
    };
    runs.changed.connect(show);
    const extension: DocumentRegistry.WidgetExtension = {
      createNew: (document, context): IDisposable => {
        const toggle = new Toggle(context.sessionContext, words);
        made.set(document, toggle);
        toggle.changed.connect(show);
        toggle.news.connect((_, { run, packed }) => runs.tell(run, packed));
        const { toolbar } = document as Widget & {
          toolbar: { insertItem(at: number, name: string, widget: Widget): boolean };
        };
        toolbar.insertItem(10, "deepseek", toggle);
        return new DisposableDelegate(() => {
          made.delete(document);
          toggle.dispose();
        });
      },
    };
    app.docRegistry.addWidgetExtension("Notebook", extension);
    statusBar?.registerStatusItem("deepseek-lab:status", { item, align: "left", rank: 20 });
    const command = "deepseek-lab:toggle";
    app.commands.addCommand(command, {
      label: words.__("Optimise Every Cell"),
      isToggled: () => made.get(current(app) as Widget)?.state === "on",
      isEnabled: () => made.has(current(app) as Widget),
      execute: () => made.get(current(app) as Widget)?.toggle(),
    });
    palette?.addItem({ command, category: "DeepSeek Lab" });
  },
};

const studies: JupyterFrontEndPlugin<void> = {
  id: "deepseek-lab:studies",
  description: "Studies of searches in tabs, as the server shows them.",
  autoStart: true,
  optional: [ILabShell, ICommandPalette, IThemeManager, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    shell: ILabShell | null,
    palette: ICommandPalette | null,
    themes: IThemeManager | null,
    translator: ITranslator | null,
  ): void => {
    const words = (translator ?? nullTranslator).load(DOMAIN);
    const command = "deepseek-lab:studies";
    const settings = app.serviceManager.serverSettings;
    const open = new Map<string, MainAreaWidget<StudyTab>>();
    const colours = (): void => {
      if (themes?.theme == null) return;
      const dark = !themes.isLight(themes.theme);
      for (const { content } of open.values()) content.dark(dark);
    };
    themes?.themeChanged.connect(colours);
    const show = (study: string): void => {
      let tab = open.get(study);
      if (tab === undefined) {
        tab = new MainAreaWidget({ content: new StudyTab(study, settings, words) });
        tab.id = `deepseek-lab-study-${study}`;
        tab.title.label = study === "" ? words.__("Studies") : study;
        tab.title.closable = true;
        tab.disposed.connect(() => open.delete(study));
        open.set(study, tab);
        colours();
        app.shell.add(tab, "main");
      }
      app.shell.activateById(tab.id);
    };
    app.commands.addCommand(command, {
      label: words.__("DeepSeek: studies"),
      // Notebook 7 has one document in a page: there it is a page of its own.
      execute: (args) => {
        const study = asName(args["study"]);
        if (shell !== null) show(study);
        else window.open(address(settings, study), "_blank", "noopener");
      },
    });
    if (shell !== null) followLinks((study) => void app.commands.execute(command, { study }));
    palette?.addItem({ command, category: "DeepSeek Lab" });
  },
};

export default [outputs, panel, studies, toggles];
