"""What leaves the process: pictures, tables and text of a plan and a result. Pure: nothing here reads or writes."""
