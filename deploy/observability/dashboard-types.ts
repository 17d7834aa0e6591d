// What dashboard.json has to be, by Grafana's own types; its text follows these lines where it is
// checked (scripts/test-deploy.sh manifests), so that an unknown field or a wrong value does not compile.
import type * as grafana from "@grafana/schema";
import type { Options as StatOptions } from "./node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen.js";
import type { Options, FieldConfig } from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen.js";

// A file has the text of an enum's member, not the member.
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

// The schema leaves open what belongs to the kind of panel, and what to the kind of data source.
type Target = { refId: string; datasource: grafana.DataSourceRef; expr: string; legendFormat: string; interval: string; editorMode: "code"; range: boolean; instant: boolean };
type Panel<Type, PanelOptions, Custom> = Omit<grafana.Panel, "type" | "options" | "targets" | "fieldConfig">
  & { type: Type; options: PanelOptions; targets: Target[]; fieldConfig: { defaults: Omit<grafana.FieldConfig, "custom"> & Custom; overrides: grafana.FieldConfigSource["overrides"] } };
type Annotation = grafana.AnnotationQuery & { expr?: string; step?: string; titleFormat?: string; textFormat?: string; useValueForTime?: boolean };
type Dashboard = Omit<grafana.Dashboard, "panels" | "annotations">
  & { panels: (Panel<"stat", StatOptions, {}> | Panel<"timeseries", Options, { custom: FieldConfig }>)[]; annotations: { list: Annotation[] } };

export const dashboard: Json<Dashboard> =
